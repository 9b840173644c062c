"""The topics as KafkaTopics of Strimzi's operator, made from the table of topics."""

from __future__ import annotations

import yaml

from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import TOPICS

_HEAD = """\
# Made by `make docs` from the table of topics. Needed only with topics.apply: false; else the chart's job makes
# them. Strimzi 0.49 or newer, in the namespace of the Kafka named fleet (strimzi.yaml).
"""


def strimzi_topics() -> str:
    """Make a KafkaTopic for each topic, with three replicas."""
    partitions = {topic.name: topic.partitions for topic in TOPICS}
    documents = [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {
                "name": f"{Settings.TOPIC_PREFIX.default}{topic.name}",
                "labels": {"strimzi.io/cluster": "fleet"},
            },
            "spec": {
                "partitions": partitions[topic.follows] if topic.follows else topic.partitions,
                "replicas": 3,
                "config": {**topic.config, "min.insync.replicas": "2"},
            },
        }
        for topic in TOPICS
    ]
    return _HEAD + yaml.safe_dump_all(documents, sort_keys=False)
