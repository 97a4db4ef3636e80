"""The metrics of next-token prediction: what they are, also for records that were written before records said so."""

from arch.contracts import Metric

NEXT_TOKEN = {
    "loss": Metric(unit="nats per token", compare="log", exponential="perplexity"),
    "perplexity": Metric(compare="ratio"),
    "bits_per_byte": Metric(unit="bits per byte", compare="ratio"),
}


def known(name: str) -> Metric | None:
    """What a metric named SPLIT/METRIC is if nobody declares it: one of NEXT_TOKEN, or None."""
    return NEXT_TOKEN.get(name.rpartition("/")[2])
