"""What ``scripts/countdown_faults.py`` calls wrong with a trace."""

import pytest

from scripts.countdown_faults import faults

RIGHT = "100- 93=  7  30+  7= 37  30-  7= 23\n 23= 30-(100- 93)"


@pytest.mark.parametrize(
    ("reasoning", "is_answered", "is_correct", "kind"),
    [
        (RIGHT, True, True, "solved"),
        (RIGHT, False, False, "no answer"),
        (RIGHT.replace("=  7", "=  8", 1), True, False, "false equation"),
        (RIGHT.replace("30-  7= 23\n", "\n"), True, False, "target not reached"),
        (RIGHT, True, False, "wrong expression"),
        ("1/0=0", True, False, "false equation"),
    ],
)
def test_the_first_fault_of_a_trace(reasoning, is_answered, is_correct, kind):
    row = {
        "prompt": "countdown  30 100  93 =  23",
        "generation": f"<reasoning>{reasoning}</reasoning>\n<answer>\\boxed{{1}}</answer>",
        "extracted": "1" if is_answered else None,
        "correct": is_correct,
    }
    kinds, _ = faults([row])
    assert kinds == {kind: 1}


def test_equations_are_counted():
    rows = [
        {
            "prompt": "countdown 30 100 93 = 23",
            "generation": RIGHT.replace("= 37", "= 38") + "</reasoning>1+1=3",
            "extracted": "1",
            "correct": False,
        }
    ]
    _, equations = faults(rows)
    assert equations == {True: 2, False: 1}
