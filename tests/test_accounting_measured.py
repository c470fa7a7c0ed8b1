"""Bytes of tensors, watched: against sizes that can be worked out by hand."""

import gc

import pytest
import torch
from torch import nn

from peft_lessons import LoRAConfig, inject, trainable_parameters
from peft_lessons.accounting import FP32, TRAIN_FP32, FullFineTuning, TensorMemory, decoder_shape, training_memory
from peft_lessons.models.decoder import Decoder, DecoderConfig
from peft_lessons.training import language_model_loss

KB = 1000  # numbers of 4 bytes below


def test_what_lives_counts_and_what_is_gone_does_not():
    with TensorMemory() as memory:
        a = torch.zeros(KB)
        b = torch.zeros(2 * KB)
        assert memory.now == 12 * KB
        del b
        assert memory.now == 4 * KB
        c = a + 1
        assert (memory.now, memory.peak) == (8 * KB, 12 * KB)
        del a, c
    assert memory.now == 0


def test_shared_memory_counts_once():
    with TensorMemory() as memory:
        a = torch.zeros(10, KB)
        views = [a[1], a.T, a.view(-1), a.detach(), a.expand(3, 10, KB)]
        assert memory.now == 40 * KB
        del a
        assert memory.now == 40 * KB, "the views hold it"
        del views
        assert memory.now == 0


def test_modules_count_from_the_start_with_their_buffers_and_tied_weights_once():
    model = nn.Sequential(nn.Linear(10, KB, bias=False), nn.Linear(10, KB, bias=False), nn.BatchNorm1d(KB))
    model[1].weight = model[0].weight
    norm = 4 * KB  # weight, bias, mean and variance; and a counter of 8 bytes
    assert TensorMemory(model).now == 4 * (10 * KB + norm) + 8


def test_what_was_there_before_counts_once_it_is_read():
    a = torch.zeros(KB)
    with TensorMemory() as memory:
        assert memory.now == 0
        b = a * 2
        assert memory.now == 8 * KB
    del b


def test_tensors_without_memory_count_nothing():
    with TensorMemory() as memory:
        held = torch.zeros(KB, device="meta"), torch.zeros(3, 3).to_sparse()
        assert held[1].values().nbytes == memory.now == 0


def test_backward_is_watched():
    """Forward makes the result, and backward a gradient as large as the weight."""
    layer = nn.Linear(KB, KB, bias=False)
    x = torch.zeros(1, KB)
    with TensorMemory(layer) as memory:
        y = layer(x)
        assert memory.now == 4 * (KB * KB + 2 * KB)
        y.backward(torch.ones_like(y))
        assert memory.now == pytest.approx(4 * 2 * KB * KB, rel=0.01)
    assert layer.weight.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_training_step_takes_what_is_counted_from_the_shape(lora):
    config = DecoderConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model, method = Decoder(config), LoRAConfig(rank=8)
    if lora:
        inject(model, method)
    optimizer = torch.optim.AdamW(trainable_parameters(model.train()))
    ids = torch.randint(512, (8, 128))
    gc.collect()
    with TensorMemory(model) as memory:
        for _ in range(2):
            optimizer.zero_grad()
            language_model_loss(model, ids, ids).backward()
            optimizer.step()
    counted = training_memory(
        decoder_shape(config),
        method if lora else FullFineTuning(),
        batch=8,
        tokens=128,
        precision=TRAIN_FP32,
        storage=FP32,
        compute=FP32,
    )
    assert memory.peak == pytest.approx(counted.total, rel=0.12)
