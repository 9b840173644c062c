import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.avro.Schema;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.util.Utf8;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * Ring events counted by Kafka Streams, exactly once: per session a row of its series (agent and event type), each
 * with how many there were and the ring that the last of them named. Runs until SIGTERM.
 *
 * <p>--bootstrap --topic --group --state-dir --schema [--commit-interval 0.2] [--store memory|rocksdb]
 * [--config NAME=VALUE ...], the last for any setting of Streams or, with a prefix, of its clients.
 */
public final class RingStreams {
    private static final String STORE = "rings";
    private static final int NONE = -1;

    /** What is kept of one event, after all of it was decoded. */
    record RingEvent(Utf8 agent, Utf8 type, int ring) {}

    /** A series of a session. The names stay UTF-8, as both formats have them. */
    record Series(byte[] agent, byte[] type, long count, int ring) {
        boolean isOf(RingEvent event) {
            return equal(type, event.type) && equal(agent, event.agent);
        }

        private static boolean equal(byte[] name, Utf8 other) {
            int length = other.getByteLength();
            return Arrays.equals(name, 0, name.length, other.getBytes(), 0, length);
        }

        static Series first(RingEvent event) {
            return new Series(copy(event.agent), copy(event.type), 1, event.ring);
        }

        private static byte[] copy(Utf8 name) {
            return Arrays.copyOf(name.getBytes(), name.getByteLength());
        }

        Series plus(RingEvent event) {
            return new Series(agent, type, count + 1, event.ring == NONE ? ring : event.ring);
        }

        int size() {
            return 16 + agent.length + type.length;
        }
    }

    static Series[] plus(Series[] all, RingEvent event) {
        for (int n = 0; n < all.length; n++) {
            if (all[n].isOf(event)) {
                Series[] changed = all.clone();
                changed[n] = all[n].plus(event);
                return changed;
            }
        }
        Series[] more = Arrays.copyOf(all, all.length + 1);
        more[all.length] = Series.first(event);
        return more;
    }

    /** Each series as count (8 bytes), ring (4), and the two names with their lengths (2 each) before them. */
    static final class RowSerializer implements Serializer<Series[]> {
        @Override
        public byte[] serialize(String topic, Series[] row) {
            if (row == null) {
                return null;
            }
            int size = 0;
            for (Series one : row) {
                size += one.size();
            }
            ByteBuffer out = ByteBuffer.allocate(size);
            for (Series one : row) {
                out.putLong(one.count).putInt(one.ring);
                out.putShort((short) one.agent.length).put(one.agent);
                out.putShort((short) one.type.length).put(one.type);
            }
            return out.array();
        }
    }

    static final class RowDeserializer implements Deserializer<Series[]> {
        @Override
        public Series[] deserialize(String topic, byte[] data) {
            if (data == null) {
                return null;
            }
            Series[] row = new Series[0];
            for (ByteBuffer in = ByteBuffer.wrap(data); in.hasRemaining(); ) {
                long count = in.getLong();
                int ring = in.getInt();
                row = Arrays.copyOf(row, row.length + 1);
                row[row.length - 1] = new Series(name(in), name(in), count, ring);
            }
            return row;
        }

        private static byte[] name(ByteBuffer in) {
            byte[] name = new byte[in.getShort()];
            in.get(name);
            return name;
        }
    }

    /** Avro's own decoder, on the bytes after the framing; record and decoder are used again for the next one. */
    static final class EventDeserializer implements Deserializer<RingEvent> {
        private static final JsonFactory JSON = new JsonFactory();
        private static final Utf8 NOBODY = new Utf8("");

        private final byte[] framing;
        private final GenericDatumReader<GenericRecord> reader;
        private final int agentField;
        private final int typeField;
        private final int payloadField;
        private BinaryDecoder decoder;
        private GenericRecord record;

        EventDeserializer(Schema schema) {
            framing = ByteBuffer.allocate(10)
                    .put((byte) 0xC3)
                    .put((byte) 0x01)
                    .put(fingerprint(schema))
                    .array();
            reader = new GenericDatumReader<>(schema);
            agentField = schema.getField("agent_did").pos();
            typeField = schema.getField("event_type").pos();
            payloadField = schema.getField("payload").pos();
        }

        private static byte[] fingerprint(Schema schema) {
            long number = SchemaNormalization.parsingFingerprint64(schema);
            return ByteBuffer.allocate(8).order(java.nio.ByteOrder.LITTLE_ENDIAN).putLong(number).array();
        }

        @Override
        public RingEvent deserialize(String topic, byte[] data) {
            if (data == null || !Arrays.equals(data, 0, Math.min(10, data.length), framing, 0, 10)) {
                throw new SerializationException("not an event in Avro's single-object encoding of this schema");
            }
            try {
                decoder = DecoderFactory.get().binaryDecoder(data, 10, data.length - 10, decoder);
                // Strings are made anew: those of the record before are held by the events made of it.
                record = reader.read(null, decoder);
                Utf8 agent = (Utf8) record.get(agentField);
                Utf8 payload = (Utf8) record.get(payloadField);
                return new RingEvent(agent == null ? NOBODY : agent, (Utf8) record.get(typeField), ring(payload));
            } catch (IOException error) {
                throw new SerializationException(error);
            }
        }

        private static int ring(Utf8 payload) throws IOException {
            try (JsonParser json = JSON.createParser(payload.getBytes(), 0, payload.getByteLength())) {
                int ring = NONE;
                if (json.nextToken() != JsonToken.START_OBJECT) {
                    throw new IOException("the payload is not a JSON object");
                }
                while (json.nextToken() == JsonToken.FIELD_NAME) {
                    boolean isRing = json.currentName().equals("ring");
                    JsonToken value = json.nextToken();
                    if (isRing && value == JsonToken.VALUE_NUMBER_INT) {
                        ring = json.getIntValue();
                    } else {
                        json.skipChildren();
                    }
                }
                return ring;
            }
        }
    }

    private RingStreams() {}

    public static void main(String[] arguments) throws Exception {
        Map<String, String> given = new HashMap<>();
        Properties more = new Properties();
        for (int n = 0; n + 1 < arguments.length; n += 2) {
            if (arguments[n].equals("--config")) {
                String[] setting = arguments[n + 1].split("=", 2);
                more.setProperty(setting[0], setting[1]);
            } else {
                given.put(arguments[n], arguments[n + 1]);
            }
        }
        Properties settings = settings(given);
        settings.putAll(more);
        Schema schema = new Schema.Parser().parse(Files.readString(Path.of(given.get("--schema")), StandardCharsets.UTF_8));
        boolean inMemory = !given.getOrDefault("--store", "memory").equals("rocksdb");

        StreamsBuilder builder = new StreamsBuilder();
        Materialized<byte[], Series[], KeyValueStore<Bytes, byte[]>> store =
                Materialized.as(inMemory ? Stores.inMemoryKeyValueStore(STORE) : Stores.persistentKeyValueStore(STORE));
        builder.stream(given.get("--topic"), Consumed.with(Serdes.ByteArray(), Serdes.serdeFrom((t, e) -> null, new EventDeserializer(schema))))
                .groupByKey()
                .aggregate(
                        () -> new Series[0],
                        (session, event, row) -> plus(row, event),
                        store.withKeySerde(Serdes.ByteArray())
                                .withValueSerde(Serdes.serdeFrom(new RowSerializer(), new RowDeserializer()))
                                .withCachingEnabled());

        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            failed.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(8))));
        streams.start();
        failed.await(); // else SIGTERM ends this process
        System.exit(1);
    }

    private static Properties settings(Map<String, String> given) {
        Properties settings = new Properties();
        double interval = Double.parseDouble(given.getOrDefault("--commit-interval", "0.2"));
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, given.get("--group"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, given.get("--bootstrap"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, given.get("--state-dir"));
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, Math.round(interval * 1000));
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        // By default 100 ms here; a commit flushes anyway.
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 5);
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // As librdkafka has them: no check of checksums, the system's socket buffers. More records per poll gain nothing.
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.CHECK_CRCS_CONFIG), false);
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.RECEIVE_BUFFER_CONFIG), -1);
        settings.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        return settings;
    }
}
