"""The texts of report pages and notebook tables, in Chinese and English."""

from __future__ import annotations

from .._locale import translations

# Filled in with `str.format`.
WORDS = translations(
    text_to_image=("以文搜图", "text to image"),
    image_to_text=("以图搜文", "image to text"),
    published=("作者公布的结果（{setting}）", "published by the authors, {setting}"),
    zero_shot=("零样本", "zero-shot"),
    finetuned=("微调", "fine-tuned"),
    summary=(
        "模型 {model}，{precision}；{images} 张图片，{texts} 条文本（{normalization}，"
        "其中 {truncated} 条被截断），已跳过 {skipped} 行",
        "model {model}, {precision}; images: {images}, texts: {texts} ({normalization}; "
        "truncated: {truncated}), rows skipped: {skipped}",
    ),
    normalized=("转为小写，弯引号改为直引号", "lower case, straight quotes"),
    raw=("保持原样", "unchanged"),
    hardest=("最难检索的图片", "Images that are hardest to find"),
    easiest=("最易检索的图片", "Images that are easiest to find"),
    best=("排名最好的文本", "best text"),
    worst=("排名最差的文本", "worst text"),
    rank=(
        "在 {images} 张图片中排第 {rank}，余弦相似度 {cosine:.3f}",
        "rank {rank} of {images}, cosine {cosine:.3f}",
    ),
    mean_per_class=("平均每类准确率", "mean per class"),
    skipped=("已跳过", "skipped"),
    classified=(
        "{dataset}：{images} 张图片 · {model}，{precision} · {templates} 个模板",
        "{dataset} · images: {images} · {model}, {precision} · templates: {templates}",
    ),
    classes=("类别", "class"),
    confusion=("真实类别 ↓ / 预测类别 →", "true class ↓ / predicted class →"),
)
