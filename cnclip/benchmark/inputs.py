"""The inputs of a benchmark: images of noise, texts of a given token count, product titles."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480
SHORT_TOKENS = 12
TOKENS = (SHORT_TOKENS, 52)

# Each character becomes one token in every vocabulary, known or [UNK].
_CHARACTERS = "一个在逛公园的女孩子和两只晒太阳的小猫看见天上有大鸟飞过水面"
_BRANDS = ("小米", "华为", "安踏", "海尔", "Nike", "Apple", "美的", "lenovo", "李宁", "波司登")
_KINDS = ("智能手机", "蓝牙耳机", "跑步鞋", "羽绒服", "电饭煲", "笔记本电脑", "连衣裙", "保温杯")
_WORDS = ("2024新款", "官方旗舰店", "夏季", "轻薄", "5G", "加厚", "女士", "包邮", "256GB", "大容量")


def make_images(count: int) -> list[Image.Image]:
    """Return `count` open RGB images of 640 x 480."""
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        for _ in range(count)
    ]


def make_texts(count: int, tokens: int) -> list[str]:
    """Return `count` texts of `tokens` tokens each, including [CLS] and [SEP]."""
    characters = _CHARACTERS * (tokens // len(_CHARACTERS) + 2)
    starts = (index % len(_CHARACTERS) for index in range(count))
    return [characters[start : start + tokens - 2] for start in starts]


def make_titles(count: int) -> list[str]:
    """Return `count` product titles of about 20 characters: Chinese, Latin words and numbers."""
    choose = random.Random(0)
    return [
        choose.choice(_BRANDS) + choose.choice(_KINDS) + " " + "".join(choose.sample(_WORDS, 3))
        for _ in range(count)
    ]
