"""The figures as Markdown tables and as a chart."""

from __future__ import annotations

from pathlib import Path
from statistics import median, quantiles
from typing import Any

MODEL_ONLY = ("transformers", "onnxruntime", "openvino")
NAMES = {
    "image": "image 640 x 480, batch {batch}",
    "prepared": "prepared image, batch {batch}",
    "text": "text of {tokens} tokens, batch {batch}",
    "preprocess": "preprocessing an image, one thread",
    "tokenize": "tokenizing a title, one thread",
}
CHARTED = ("image", "text of 12")


def describe_case(case: dict[str, Any]) -> str:
    return NAMES[case["kind"]].format(**case)


def format_text(found: dict[str, Any]) -> str:
    """Format all figures as Markdown."""
    machine = found["machine"]
    engines = [name for name in found["versions"] if any(name in s for s in samples_of(found))]
    parts = [
        f"{found['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{found['threads']} threads, {machine['system']}; "
        + (f"{machine['gpu']}, CUDA {machine['cuda']}; " if "gpu" in machine else "")
        + (f"held to {found['isa']}; " if found.get("isa") else "")
        + f"{found['model']}; "
        f"medians of {found['rounds']} rounds",
        format_versions(found),
        format_medians(found, engines),
        "Spread, from the lower to the upper quartile, over the median:\n\n"
        + format_spreads(found, engines),
        "Times over cnclip's of the same precision:\n\n" + format_ratios(found, engines),
        "Embeddings against those of cnclip in fp32:\n\n" + format_agreement(found),
        "Model only, without preprocessing: " + ", ".join(e for e in engines if is_model_only(e)),
    ]
    parts += [f"skipped {name}: {reason}" for name, reason in found["skipped"].items()]
    return "\n\n".join(parts)


def samples_of(found: dict[str, Any]) -> list[dict[str, list[float]]]:
    return list(found["samples"].values())


def is_model_only(engine: str) -> bool:
    return engine.startswith(MODEL_ONLY)


def counterpart(engine: str) -> str:
    """Return cnclip in the precision of another engine, fp32 unless its name has another."""
    precision = engine.partition("-")[2].removesuffix("-compiled")
    return f"cnclip-{precision or 'fp32'}"


def format_versions(found: dict[str, Any]) -> str:
    merged: dict[str, str] = {}
    for name, versions in found["versions"].items():
        for package, version in versions.items():
            theirs = f"{package} ({name})" if merged.get(package, version) != version else package
            merged[theirs] = version
    return ", ".join(f"{package} {version}" for package, version in merged.items())


def format_medians(found: dict[str, Any], engines: list[str]) -> str:
    rows = [["", "", *engines]]
    for what, samples in found["samples"].items():
        medians = {name: median(values) for name, values in samples.items()}
        scale, unit = scale_of(what, min(medians.values()))
        cells = [format_value(medians[e] * scale) if e in medians else "" for e in engines]
        rows.append([what, unit, *cells])
    return table(rows)


def format_value(value: float) -> str:
    """Format a value with at least three digits."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def scale_of(what: str, value: float) -> tuple[float, str]:
    if "memory" in what:
        return 1e-6, "MB"
    if value >= 1 or what.startswith("start"):
        return 1, "s"
    return (1e3, "ms") if value >= 1e-3 else (1e6, "us")


def format_spreads(found: dict[str, Any], engines: list[str]) -> str:
    rows = [["", *engines]]
    for what, samples in found["samples"].items():
        rows.append([what, *(spread(samples[e]) if e in samples else "" for e in engines)])
    return table(rows)


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    low, middle, high = quantiles(values, method="inclusive")
    return f"{(high - low) / middle:.0%}"


def format_ratios(found: dict[str, Any], engines: list[str]) -> str:
    others = [name for name in engines if not name.startswith("cnclip")]
    rows = [["", *others]]
    for what, samples in found["samples"].items():
        cells = []
        for name in others:
            ours = counterpart(name)
            known = name in samples and ours in samples
            ratio = median(samples[name]) / median(samples[ours]) if known else 0
            cells.append(f"{ratio:.2f}" if known else "")
        rows.append([what, *cells])
    return table(rows)


def format_agreement(found: dict[str, Any]) -> str:
    rows = [["", "largest difference", "lowest cosine"]]
    for name, values in found["agreement"].items():
        difference, cosine = values["largest_difference"], values["lowest_cosine"]
        rows.append([name, f"{difference:.1e}", f"{cosine:.6f}"])
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw bars of milliseconds per item, one panel per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    charted = {w: s for w, s in found["samples"].items() if w.startswith(CHARTED)}
    figure, axes = pyplot.subplots(1, len(charted), figsize=(4 * len(charted), 4), sharey=True)
    for axis, (what, samples) in zip(axes, charted.items(), strict=True):
        names = list(reversed(samples))
        values = [median(samples[name]) * 1e3 for name in names]
        colors = ["tab:orange" if name.startswith("cnclip") else "tab:gray" for name in names]
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, fmt="{:.3g}", padding=2, fontsize=8)
        axis.margins(x=0.15)
        axis.set_title(what, fontsize=9)
        axis.set_xlabel("ms per item")
    machine = found["machine"]
    figure.suptitle(f"{found['model']}, {machine['processor']}, {found['threads']} threads")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
