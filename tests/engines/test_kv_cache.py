import torch
from transformers import DynamicCache, DynamicLayer

from sppo_lightning.engines.kv_cache import ReservedLayer, fan_out


def states(tokens, rows=2):
    return torch.randn(rows, 3, tokens, 4), torch.randn(rows, 3, tokens, 5)


def test_reserved_layer_equals_the_growing_one():
    prompt, steps = states(4), [states(1) for _ in range(6)]
    growing = DynamicLayer()
    growing.update(*prompt)
    reserved = ReservedLayer(*prompt, num_tokens=10)
    for step in steps:
        for mine, theirs in zip(reserved.update(*step), growing.update(*step), strict=True):
            torch.testing.assert_close(mine, theirs, atol=0, rtol=0)
        assert reserved.get_seq_length() == growing.get_seq_length()


def test_fan_out_gives_each_row_its_own_copy():
    cache = DynamicCache()
    keys, values = states(4)
    cache.update(keys, values, layer_idx=0)
    fan_out(cache, torch.tensor([1, 0, 1]), num_tokens=6)
    new_keys, new_values = states(1, rows=3)
    all_keys, all_values = cache.update(new_keys, new_values, layer_idx=0)
    torch.testing.assert_close(all_keys, torch.cat([keys[[1, 0, 1]], new_keys], dim=-2))
    torch.testing.assert_close(all_values, torch.cat([values[[1, 0, 1]], new_values], dim=-2))


def test_a_new_token_does_not_move_the_earlier_ones():
    cache = DynamicCache()
    cache.update(*states(4), layer_idx=0)
    fan_out(cache, torch.tensor([0, 1]), num_tokens=6)
    addresses = {tensor.data_ptr() for _ in range(2) for tensor in cache.update(*states(1), layer_idx=0)}
    assert len(addresses) == 2, "one of the keys and one of the values"


def test_rows_can_leave_and_the_others_still_have_room():
    cache = DynamicCache()
    keys, values = states(4)
    cache.update(keys, values, layer_idx=0)
    fan_out(cache, torch.tensor([0, 1, 1]), num_tokens=6)
    first, second = states(1, rows=3), states(1, rows=2)
    cache.update(*first, layer_idx=0)
    cache.reorder_cache(torch.tensor([2, 0]))
    all_keys, all_values = cache.update(*second, layer_idx=0)
    torch.testing.assert_close(all_keys, torch.cat([keys[[1, 0]], first[0][[2, 0]], second[0]], dim=-2))
    torch.testing.assert_close(all_values, torch.cat([values[[1, 0]], first[1][[2, 0]], second[1]], dim=-2))
