"""The words of report pages and notebook tables, in Chinese and English."""

from __future__ import annotations

from dataclasses import dataclass

from .._locale import Language


@dataclass(frozen=True)
class Words:
    """The words in one language. Braces are filled in with `str.format`."""

    text_to_image: str
    image_to_text: str
    published: str
    zero_shot: str
    finetuned: str
    summary: str
    normalized: str
    raw: str
    hardest: str
    easiest: str
    best: str
    worst: str
    rank: str
    mean_per_class: str
    skipped: str
    classified: str
    classes: str
    confusion: str

    def setting(self, name: str) -> str:
        """Return the heading of published figures, for `'zero_shot'` or `'finetuned'`."""
        return self.published.format(setting=getattr(self, name))


ZH = Words(
    text_to_image="以文搜图",
    image_to_text="以图搜文",
    published="作者公布的结果（{setting}）",
    zero_shot="零样本",
    finetuned="微调",
    summary="模型 {model}，{precision}；{images} 张图片，{texts} 条文本（{normalization}，"
    "其中 {truncated} 条被截断），已跳过 {skipped} 行",
    normalized="转为小写，弯引号改为直引号",
    raw="保持原样",
    hardest="最难检索的图片",
    easiest="最易检索的图片",
    best="排名最好的文本",
    worst="排名最差的文本",
    rank="在 {images} 张图片中排第 {rank}，余弦相似度 {cosine:.3f}",
    mean_per_class="平均每类准确率",
    skipped="已跳过",
    classified="{dataset}：{images} 张图片 · {model}，{precision} · {templates} 个模板",
    classes="类别",
    confusion="真实类别 ↓ / 预测类别 →",
)

EN = Words(
    text_to_image="text to image",
    image_to_text="image to text",
    published="published by the authors, {setting}",
    zero_shot="zero-shot",
    finetuned="fine-tuned",
    summary="model {model}, {precision}; {images} images, {texts} texts ({normalization}, "
    "{truncated} truncated), {skipped} rows skipped",
    normalized="lower case, straight quotes",
    raw="unchanged",
    hardest="Images that are hardest to find",
    easiest="Images that are easiest to find",
    best="best text",
    worst="worst text",
    rank="rank {rank} of {images}, cosine {cosine:.3f}",
    mean_per_class="mean per class",
    skipped="skipped",
    classified="{dataset}: {images} images · {model}, {precision} · {templates} templates",
    classes="class",
    confusion="true class ↓ / predicted class →",
)

WORDS: dict[Language, Words] = {"zh": ZH, "en": EN}
