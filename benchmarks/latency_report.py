"""Text and charts of `python -m benchmarks latency`: table, document, ratios, changes since an earlier run."""

from pathlib import Path
from typing import Any

from cgan.errors import UserError

KINDS = ("compute", "copies", "files")
UNSTEADY = 0.1
"""Coefficient of variation from which on a row is marked."""
PERCENTILES = (50, 90, 99)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a markdown table."""
    lines = [
        "| model | batch | kind | p50 ms | p90 | p99 | runs | images/s | PSNR |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        mark = " (unsteady)" if row["variation"] > UNSTEADY else ""
        psnr = "equal" if row["psnr"] is None else f"{row['psnr']:.1f}"
        times = " | ".join(f"{row[f'p{p}']:.2f}" for p in PERCENTILES)
        lines.append(
            f"| {row['contestant']} | {row['batch']} | {row['kind']} | {times} | {row['runs']} | "
            f"{row['images_per_second']:.1f}{mark} | {psnr} |"
        )
    return "\n".join(lines)


def document(record: dict[str, Any], description: str) -> str:
    """Return a markdown document: command, machine, engines, description, table, ratios."""
    packages = ", ".join(f"{name} {number}" for name, number in record["machine"]["packages"].items())
    found = record["machine"]
    engines = sorted({f"- `{row['contestant']}`: {row['engine']}" for row in record["rows"]})
    return "\n".join(
        [
            f"# `python -m benchmarks latency {' '.join(record['arguments'])}`",
            "",
            f"{found['cpu']}, {found['cores']} cores; GPU: {found['gpu'] or 'none'}; Python {found['python']}; "
            + packages,
            "",
            *engines,
            "",
            description,
            f"PSNR in dB is against the first model. A row whose runs vary by more than {UNSTEADY:.0%} is unsteady.",
            "",
            table(record["rows"]),
            "",
            *(f"- {line}" for line in [*shares(record), *ratios(record["rows"], record["first"])]),
            "",
        ]
    )


def shares(record: dict[str, Any]) -> list[str]:
    """Return a line for each row of "compute" on a GPU with its share of the matrix rate."""
    return [
        f"{row['contestant']}, batch {row['batch']}: {row['share']:.1%} of a matrix product's rate "
        f"({record['fp16_matrix_product_tflops']:.0f} TFLOP/s)"
        for row in record.get("of_peak", ())
    ]


def ratios(rows: list[dict[str, Any]], first: str) -> list[str]:
    """Return a line for each contestant, batch size and kind: its images a second divided by those of the first."""
    return [
        f"{row['contestant']} / {first}, batch {row['batch']}, {row['kind']} = {found['median']:.2f} "
        f"({found['low']:.2f} to {found['high']:.2f})"
        for row in rows
        if (found := row["speed"])
    ]


def changes(record: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Return a line for each row of both runs: how medians and ratios changed since the earlier one."""
    before = {(row["contestant"], row["batch"], row["kind"]): row for row in old["rows"]}
    same = record["first"] == old["first"]
    lines = []
    for row in record["rows"]:
        found = before.get((row["contestant"], row["batch"], row["kind"]))
        if found is None:
            continue
        line = f"{row['contestant']}, batch {row['batch']}, {row['kind']}: p50 {row['p50'] / found['p50']:.2f}"
        if same and row["speed"] and found.get("speed"):
            line += f", ratio {row['speed']['median'] / found['speed']['median']:.2f}"
        lines.append(f"{line} x the old one's")
    here, there = ({name: r["machine"][name] for name in ("cpu", "cores", "gpu")} for r in (record, old))
    if here != there:
        lines.insert(0, f"the old figures are from another machine ({there}, here {here}): the changes say little")
    return lines or ["the old figures have no row of these"]


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw images a second over batch size, a panel for each kind.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError("the chart needs matplotlib; install it with pip install 'cgan[train]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    figure, panels = plt.subplots(1, len(kinds), figsize=(4.5 * len(kinds), 4.2), squeeze=False, layout="constrained")
    for panel, kind in zip(panels[0], kinds, strict=True):
        for name in dict.fromkeys(row["contestant"] for row in rows):
            mine = [row for row in rows if row["contestant"] == name and row["kind"] == kind]
            panel.plot([r["batch"] for r in mine], [r["images_per_second"] for r in mine], marker="o", label=name)
        panel.set(title=kind, xlabel="batch", xscale="log", ylim=(0, None))
        panel.minorticks_off()
        panel.set_xticks(sorted({row["batch"] for row in rows}), labels=sorted({row["batch"] for row in rows}))
    panels[0][0].set_ylabel("images/s")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
