"""Other people's stream processors at the job of `ring-metrics`: the peers that the benchmark compares it with.

Each reads the same Avro ring events, decodes every record whole with the decoder its users have, and keeps per
series (agent, session, event type) how many there were and the ring that the last one named. They run as programs
of their own in `.venv-peers`, which `requirements.lock` makes, or in a JVM; `running` starts them. Every peer has
the settings that were fastest of those tried; its program says which.

What can't be made equal:

- `ring-metrics` does more. It drops duplicates by event id, orders rings by event time, keeps running and ended
  elevations with a histogram of them, an account of every offset, dead letters for bad records, and answers
  `/metrics` and health checks meanwhile. A bad record stops a peer.
- It remembers the ring of a payload text that it has seen, and a backlog may repeat few; the peers parse each one.
- Only Kafka Streams and Quix Streams are exactly-once, with a changelog. The others lose all counts when they end.
- A JVM takes half a million events to reach its speed; `Peer.warm_up` says what to leave out.
- Quix pins confluent-kafka below ours, so its librdkafka is older, and that of the programs beside it.
"""
