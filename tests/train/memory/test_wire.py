import pytest

from jaxprop.train.memory.wire import fields, numbers


def test_every_kind_of_field_is_read_in_order():
    message = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x19" + bytes(8) + b"\x25" + b"\x01\x00\x00\x00" + b"\xa2\x02\x01z"
    found = [(number, value if isinstance(value, int) else bytes(value)) for number, value in fields(message)]
    assert found == [(1, 150), (2, b"abc"), (3, bytes(8)), (4, b"\x01\x00\x00\x00"), (36, b"z")]


def test_integers_of_64_bits():
    largest = b"\x08" + b"\xff" * 9 + b"\x01"
    assert list(fields(largest)) == [(1, 2**64 - 1)]


@pytest.mark.parametrize("message", [b"\x08", b"\x12\x05ab", b"\x08\xff", b"\x0b", b"\x08" + b"\xff" * 11])
def test_what_is_no_message_or_ends_early_is_an_error(message):
    with pytest.raises(ValueError, match="expected a protocol buffer"):
        list(fields(message))


def test_packed_numbers():
    assert numbers(memoryview(b"")) == []
    assert numbers(memoryview(b"\x00\xac\x02\x07")) == [0, 300, 7]
