"""What ``scripts/countdown_faults.py`` calls wrong with a trace."""

import pytest

from scripts.countdown_faults import faults

RIGHT = "100- 30= 70  93+ 70=163 no  93- 70= 23 ok\n 23= 93-(100- 30)"


@pytest.mark.parametrize(
    ("reasoning", "is_answered", "is_correct", "kind"),
    [
        (RIGHT, True, True, "solved"),
        (RIGHT, False, False, "no answer"),
        (RIGHT.replace("= 70", "= 71", 1), True, False, "false equation"),
        (RIGHT.replace("no", "ok"), True, False, "wrong mark"),
        (RIGHT.replace(" 93- 70= 23 ok", ""), True, False, "target not reached"),
        (RIGHT, True, False, "wrong expression"),
        ("1/0=0 no", True, False, "false equation"),
    ],
)
def test_the_first_fault_of_a_trace(reasoning, is_answered, is_correct, kind):
    row = {
        "prompt": "countdown  30 100  93 =  23",
        "generation": f"<reasoning>{reasoning}</reasoning>\n<answer>\\boxed{{1}}</answer>",
        "extracted": "1" if is_answered else None,
        "correct": is_correct,
    }
    kinds, _, _ = faults([row])
    assert kinds == {kind: 1}


def test_equations_and_marks_are_counted():
    rows = [
        {
            "prompt": "countdown 30 100 93 = 23",
            "generation": RIGHT.replace("163 no", "164 ok") + "</reasoning>1+1=3 ok",
            "extracted": "1",
            "correct": False,
        }
    ]
    _, equations, marks = faults(rows)
    assert equations == {True: 2, False: 1}
    assert marks == {True: 1, False: 1}
