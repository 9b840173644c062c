"""Events as bytes on Kafka, and back."""
