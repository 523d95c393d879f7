from activemri.tables import format_table


def test_numbers_stand_at_the_right_and_text_at_the_left() -> None:
    text = format_table(("name", "n", "ssim"), [("a", 12, 0.5), ("longer", 3, None)])
    assert text.splitlines() == [
        "name     n    ssim",
        "------  --  ------",
        "a       12  0.5000",
        "longer   3       -",
    ]
