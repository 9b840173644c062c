"""A Kafka in memory, with the clients and errors of confluent_kafka."""
