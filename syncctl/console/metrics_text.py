"""Metrics in the formats that Prometheus reads."""

from collections.abc import Iterator
from typing import Any

from syncctl.core.metric_table import METRICS, Distribution, Metric, Samples

PLAIN = "text/plain"


def to_metrics_text(samples: Samples, *, accept: str = PLAIN) -> tuple[bytes, str]:
    """Return the values as text, and its content type.

    Args:
        accept: The reader's HTTP header `Accept`.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(samples))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collector:
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Any]:
        """Yield the metrics that have values."""
        from prometheus_client.utils import floatToGoString

        for name, metric in METRICS.items():
            if values := self._samples.of(name):
                family = _make_family(name, metric)
                for sample in values:
                    if isinstance(sample.value, Distribution):
                        # The library's own way to write numbers, as Prometheus expects; the library does not type it.
                        bounds = [floatToGoString(bound) for bound in sample.value.bounds]  # type: ignore[no-untyped-call]
                        buckets = list(zip([*bounds, "+Inf"], sample.value.counts, strict=True))
                        family.add_metric(sample.labels, buckets=buckets, sum_value=sample.value.sum)
                    else:
                        family.add_metric(sample.labels, sample.value)
                yield family


def _make_family(name: str, metric: Metric) -> Any:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
    return kinds[metric.kind](name, metric.help, labels=metric.labels)
