"""The results of a comparison and of a confirmation, in sentences."""

from typing import TYPE_CHECKING

from harness.tracking.looks import describe_looks

if TYPE_CHECKING:
    from harness.results.compare import Pair
    from harness.results.confirm import Confirmation, Spread

MANY_IMAGES = 2000  # with so many images, two digits after the point mean something


def verdict(pair: "Pair") -> str:
    """A sentence: which is better, by how much, and whether that is significant."""
    first, found = pair.first.label, pair.difference
    if found is None:
        return f"{pair.first.label} and {pair.second.label}: {pair.reason}"
    interval = f"{100 * found.level:.3g}% interval {_amount(pair, found.low)} to {_amount(pair, found.high)}"
    by = f"by {_amount(pair, found.value)} {_unit(pair)}, {interval}"
    if pair.is_real:
        return f"{first} is better {by}"
    if pair.p_value is not None and pair.only_first + pair.only_second == 0:
        return "no difference: both are right on the same images"
    if found.excludes_zero:
        few = pair.only_first + pair.only_second
        return f"no clear difference: {first} is ahead {by}, but only {few} images tell them apart"
    ahead = f"{first} is ahead {by}" if found.value else f"the means are equal, {interval}"
    return f"no real difference: {ahead}"


def describe_seeds(found: "Confirmation") -> list[str]:
    """Sentences about the results, and about earlier uses of the test part."""
    best, objective, count = found.best, found.best.objective, len(found.finished)
    lines = [f"{objective} over {count} seeds: {_spread(found.spreads[objective])}"]
    lines += [f"{name} over {count} seeds: {_spread(spread)}" for name, spread in _main_tests(found).items()]
    if best.value is not None:
        off = best.value - found.spreads[objective].mean.value
        side = "above" if off > 0 else "below"
        lines.append(
            f"{best.name} itself had {best.value:.4f} with seed {found.seed}, {abs(off):.4f} {side} that mean; "
            "it was chosen for its value, so it does not count here."
        )
    lost = len(found.runs) - count
    if lost:
        lines.append(f"{lost} of {len(found.runs)} seeds did not finish and {'does' if lost == 1 else 'do'} not count.")
    if not any(run.test for run in found.runs):
        lines.append("The data has no test part.")
    elif found.is_new_look:
        lines.append(describe_looks(found.looks[:-1]))
    else:
        lines.append(f"{describe_looks(found.looks)} These are its numbers; it was not measured again.")
    return lines


def _amount(pair: "Pair", value: float) -> str:
    measured = pair.first.measured
    assert measured is not None
    if measured.measure != "accuracy":
        return f"{value:.3g}"
    decimals = 1 if len(measured.scores) < MANY_IMAGES else 2
    return f"{100 * value + 0.0:.{decimals}f}"


def _unit(pair: "Pair") -> str:
    assert pair.first.measured is not None
    return "points" if pair.first.measured.measure == "accuracy" else "of mean absolute error"


def _main_tests(found: "Confirmation") -> dict[str, "Spread"]:
    """The measures of the test part without its loss, unless that is all there is."""
    tests = {name: spread for name, spread in found.spreads.items() if name.startswith("test_")}
    return {name: spread for name, spread in tests.items() if name != "test_loss"} or tests


def _spread(spread: "Spread") -> str:
    mean = spread.mean
    return (
        f"{mean.value:.4f} ± {spread.standard_deviation:.4f} (standard deviation), "
        f"mean in {mean.low:.4f} to {mean.high:.4f} at {100 * mean.level:.0f}%"
    )
