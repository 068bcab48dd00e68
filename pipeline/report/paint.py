"""Tokens painted by a number: HTML spans whose classes the page's style sheet colours.

Colours are translucent, so that the text keeps the page's own colour and stays legible on a light
and on a dark ground; every span says its number in its title as well.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup, escape

NUM_LEVELS = 16
_HOT = (220, 80, 0)
_EARLY, _LATE = (0, 114, 178), (230, 159, 0)
_MAX_OPACITY = 0.75
_SPAN = Markup('<span class="{}" title="{}">{}</span>')
# Control characters have no place in HTML; a line break is shown and kept.
_VISIBLE = dict.fromkeys([*range(32), 127], "\ufffd") | {10: "↵\n", 9: "⇥\t", 13: "␍"}


def colour_level(value: float, top: float) -> int:
    """The colour class of ``value`` in [0, top]: 0 to NUM_LEVELS - 1; the highest from top on."""
    if top <= 0:
        return 0
    return max(0, min(NUM_LEVELS - 1, int(value / top * NUM_LEVELS)))


def paint_entropies(
    texts: Sequence[str], entropies: Sequence[float], rates: Sequence[float], *, top: float
) -> Markup:
    """One span a token, coloured by its entropy (nats), with its relative rate in the title.

    ``top`` is the entropy of the strongest colour. ValueError unless the three have one length.
    """
    return Markup("").join(
        _SPAN.format(
            f"t e{colour_level(entropy, top)}",
            f"{entropy:.4f} nats, relative rate {rate:.3f}",
            _shown(text),
        )
        for text, entropy, rate in zip(texts, entropies, rates, strict=True)
    )


def paint_order(texts: Sequence[str], unmask_step: Sequence[int], is_eos: Sequence[bool]) -> Markup:
    """One span a token, coloured by the step that unmasked it; a run of EOS is a single span.

    A negative step means that the token was never unmasked. ValueError unless the three have one
    length.
    """
    top = max([*unmask_step, 0]) + 1
    tokens = list(zip(texts, unmask_step, is_eos, strict=True))
    spans: list[Markup] = []
    for eos, run in groupby(tokens, key=lambda token: token[2]):
        group = list(run)
        if eos and (len(group) > 1 or group[0][1] < 0):
            spans.append(_eos_span([step for _, step, _ in group], top))
        else:
            spans += [_step_span(text, step, top) for text, step, _ in group]
    return Markup("").join(spans)


def _step_span(text: str, step: int, top: int) -> Markup:
    if step < 0:
        return _SPAN.format("t u", "never unmasked", _shown(text))
    return _SPAN.format(f"t o{colour_level(step, top)}", f"unmasked in step {step}", _shown(text))


def _eos_span(steps: list[int], top: int) -> Markup:
    decoded = [step for step in steps if step >= 0]
    title = f"{len(steps)} end-of-sequence tokens"
    if len(decoded) < len(steps):
        title += f", {len(steps) - len(decoded)} of them filled in when decoding stopped"
    if not decoded:
        return _SPAN.format("t eos", title, f"{len(steps)} EOS")
    title += f", unmasked in steps {min(decoded)} to {max(decoded)}"
    mean = sum(decoded) / len(decoded)
    return _SPAN.format(f"t o{colour_level(mean, top)} eos", title, f"{len(steps)} EOS")


def _shown(text: str) -> str:
    return text.translate(_VISIBLE) or "∅"


def entropy_legend(top: float) -> Markup:
    """The colours of ``paint_entropies`` with the entropies (nats) that they stand for."""
    bounds = [top * level / NUM_LEVELS for level in range(NUM_LEVELS)]
    labels = [f"{low:.2f}" for low in bounds[:-1]] + [f"≥ {bounds[-1]:.2f}"]
    return _legend("e", "entropy of the token in nats:", labels)


def order_legend() -> Markup:
    """The colours of ``paint_order``, from the first step to the last."""
    labels = ["first step", *[" "] * (NUM_LEVELS - 2), "last step"]
    return _legend("o", "unmasked in the", labels)


def _legend(kind: str, title: str, labels: list[str]) -> Markup:
    swatches = Markup("").join(
        Markup('<i class="{}">{}</i>').format(f"{kind}{level}", label)
        for level, label in enumerate(labels)
    )
    return Markup('<p class="legend">{} {}</p>').format(title, swatches)


def palette_css() -> Markup:
    """Style rules of all colour classes: e0.. (entropy) and o0.. (order)."""
    return Markup("\n").join(_rules())


def _rules() -> Iterator[Markup]:
    for level in range(NUM_LEVELS):
        part = level / (NUM_LEVELS - 1)
        yield _rule(f"e{level}", _HOT, _MAX_OPACITY * part)
        mixed = tuple(round(a + (b - a) * part) for a, b in zip(_EARLY, _LATE, strict=True))
        yield _rule(f"o{level}", mixed, 0.5)


def _rule(name: str, colour: tuple[int, ...], opacity: float) -> Markup:
    red, green, blue = colour
    return escape(f".{name}{{background:rgba({red},{green},{blue},{opacity:.3f})}}")
