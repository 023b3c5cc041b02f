"""A model is built by its library, and nothing is downloaded for it."""

from __future__ import annotations

import socket

import pytest

from dabnn.models.stored.source import Source


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_a_config_without_encoder_weights_downloads_none(encoder, monkeypatch):
    def never(*arguments):
        pytest.fail("a config made a library open an address")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(socket.socket, "connect", never)
    for arguments in ({}, {"encoder_weights": None}):
        source = Source("segmentation_models_pytorch", "FPN", {"encoder_name": encoder, **arguments})
        assert source.build(5).segmentation_head[0].out_channels == 5
