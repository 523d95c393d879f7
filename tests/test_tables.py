from activemri.tables import format_table


def test_numbers_stand_at_the_right_and_text_at_the_left() -> None:
    text = format_table(("name", "n", "ssim"), [("a", 12, 0.5), ("longer", 3, None)])
    assert text.splitlines() == [
        "name     n    ssim",
        "------  --  ------",
        "a       12  0.5000",
        "longer   3       -",
    ]


def test_a_number_that_is_shown_as_zero_has_no_sign() -> None:
    assert format_table(("x",), [(-1e-9,)]).splitlines()[-1] == "0.0000"
