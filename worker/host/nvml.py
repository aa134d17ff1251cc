"""NVIDIA's management library: the one module that imports it, loaded by name in `worker.host.metrics`."""

from collections.abc import Iterator

import pynvml

from worker.host.metrics import Load


def loads() -> list[Load]:
    """What each card says now, by the driver's index. Raises OSError where the driver does not answer."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
    try:
        return list(_each())
    finally:
        pynvml.nvmlShutdown()


def _each() -> Iterator[Load]:
    """A card that falls off the bus, or does not know one of the values, costs the others nothing."""
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            card = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(card)
            yield Load(
                index=index,
                load_ratio=pynvml.nvmlDeviceGetUtilizationRates(card).gpu / 100,
                memory_used_bytes=int(memory.used),
                memory_total_bytes=int(memory.total),
                temperature_celsius=pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU),
                power_watts=pynvml.nvmlDeviceGetPowerUsage(card) / 1000,
            )
        except pynvml.NVMLError:
            continue
