"""Texts that an image is trained with."""

from trainers.image.data.dataset import ORDERS, caption_orders, caption_with_trigger, texts_of


def test_the_trigger_word_comes_first_with_a_comma_if_both_exist() -> None:
    assert caption_with_trigger("sks", "a cat") == "sks, a cat"
    assert caption_with_trigger("sks", "") == "sks"
    assert caption_with_trigger("", "a cat") == "a cat"


def test_few_parts_have_all_orders_the_original_first() -> None:
    assert caption_orders("a, b", 0) == ["a, b", "b, a"]
    assert len(set(caption_orders("a, b, c", 0))) == 6
    assert caption_orders("a cat on a mat", 0) == ["a cat on a mat"]


def test_orders_of_many_parts_depend_on_the_caption_alone() -> None:
    caption = ", ".join("abcdefgh")
    orders = caption_orders(caption, 0)
    assert len(orders) == len(set(orders)) == ORDERS
    assert orders == caption_orders(caption, 0)
    assert all(sorted(order.split(", ")) == list("abcdefgh") for order in orders)
    assert caption_orders("h, " + caption[:-3], 0) != orders


def test_fixed_parts_and_the_trigger_word_stay_in_front() -> None:
    orders = texts_of("a, b, c, d", "sks", shuffle=True, keep_tokens=2)
    assert orders == ["sks, a, b, c, d", "sks, a, b, d, c"]
    assert texts_of("a, b", "sks", shuffle=True, keep_tokens=2) == ["sks, a, b"]


def test_without_shuffle_a_caption_is_unchanged() -> None:
    assert texts_of("a,b ,c", "", shuffle=False, keep_tokens=0) == ["a,b ,c"]
