"""The texts of the page, in Chinese and English."""

from __future__ import annotations

from dataclasses import dataclass

from .._locale import LANGUAGES, Language


@dataclass(frozen=True)
class Words:
    """The texts of the page in one language, filled in with `str.format`.

    Attributes:
        tag: The language tag of HTML.
        other: The text of the link to the page in the other language.
    """

    tag: str
    other: str
    title: str
    subtitle: str
    collection: str
    images: str
    texts: str
    search_tab: str
    query: str
    query_example: str
    query_hint: str
    search: str
    image: str
    options: str
    weight: str
    weight_hint: str
    count: str
    labels_tab: str
    label_image: str
    labels: str
    labels_hint: str
    compute: str
    example: str
    glimpse: str
    no_image: str
    enlarge: str
    found_nothing: str
    reach: str
    reaches: str
    cut: str
    cut_label: str
    dropped: str
    nothing_asked: str
    too_many_words: str
    too_many_characters: str
    bad_image: str
    expired: str
    no_label_image: str
    too_few_labels: str
    too_many_labels: str
    failed: str
    offline: str


ZH = Words(
    tag="zh-CN",
    other="English",
    title="图文检索",
    subtitle="用中文描述，或用一张图片，找到相近的图片。",
    collection="图库",
    images="{count} 张图片",
    texts="{count} 条文本",
    search_tab="检索",
    query="查询文本",
    query_example="例如：戴眼镜的猫",
    query_hint="最多 {limit} 个字（一个汉字计 1，连续的字母或数字计 1）",
    search="检索",
    image="以图搜图（可与文字同时使用）",
    options="选项",
    weight="文本权重",
    weight_hint="仅当文本和图片同时使用时有效",
    count="结果数量",
    labels_tab="零样本分类",
    label_image="图片",
    labels="候选标签",
    labels_hint="每行一个，也可用逗号或顿号分隔",
    compute="开始分类",
    example="示例",
    glimpse="图库预览",
    no_image="无法显示图片",
    enlarge="放大",
    found_nothing="没有结果。",
    reach="{count} 个结果中，有 {above} 个达到建议阈值 {threshold:.3f}。",
    reaches="达到建议阈值",
    cut="文本共 {ids} 个 token，超过模型上限 {limit}，「{kept}」之后的内容已被截断，不参与检索。",
    cut_label="标签「{label}」超过模型上限 {limit} 个 token，「{kept}」之后的内容已被截断。",
    dropped="重复的标签已合并。",
    nothing_asked="请输入文本，或上传一张图片。",
    too_many_words="文本有 {words} 个字，最多 {limit} 个，请缩短后再试。",
    too_many_characters="文本有 {characters} 个字符，最多 {limit} 个，请缩短后再试。",
    expired="上传的图片已过期，请重新上传。",
    bad_image="无法读取这个文件，请上传 JPEG、PNG、WebP 等格式的图片。",
    no_label_image="请先上传一张图片。",
    too_few_labels="请输入至少两个不同的标签。",
    too_many_labels="有 {labels} 个标签，最多 {limit} 个。",
    failed="出错了：{error}",
    offline="所有计算均在本机完成，无需联网。",
)

EN = Words(
    tag="en",
    other="中文",
    title="Image search",
    subtitle="Describe an image in Chinese, or upload one, to find similar images.",
    collection="Collection",
    images="{count} images",
    texts="{count} texts",
    search_tab="Search",
    query="Query, in Chinese",
    query_example="such as 戴眼镜的猫",
    query_hint="Up to {limit} words; each Chinese character counts as one.",
    search="Search",
    image="Search by image (alone, or with a text)",
    options="Options",
    weight="Weight of the text",
    weight_hint="Used only if both a text and an image are given",
    count="Number of results",
    labels_tab="Label an image",
    label_image="Image",
    labels="Labels, in Chinese",
    labels_hint="One per line, or separated by commas",
    compute="Compute",
    example="Example",
    glimpse="Preview of the collection",
    no_image="No image to show",
    enlarge="Enlarge",
    found_nothing="No results.",
    reach="{above} of {count} results reach the suggested threshold, {threshold:.3f}.",
    reaches="Reaches the suggested threshold",
    cut="The text has {ids} tokens, more than the model's limit of {limit}: "
    "everything after “{kept}” was ignored.",
    cut_label="The label “{label}” has more tokens than the model's limit of {limit}: "
    "everything after “{kept}” was ignored.",
    dropped="Duplicate labels were merged.",
    nothing_asked="Type a text, or upload an image.",
    too_many_words="The text has {words} words, the limit is {limit}: please shorten it.",
    too_many_characters="The text has {characters} characters, the limit is {limit}: "
    "please shorten it.",
    expired="The upload has expired: please upload it again.",
    bad_image="This file cannot be read as an image. Please upload JPEG, PNG, WebP or similar.",
    no_label_image="Upload an image first.",
    too_few_labels="Type at least two different labels.",
    too_many_labels="There are {labels} labels, the limit is {limit}.",
    failed="Something went wrong: {error}",
    offline="Everything is computed on this machine, without the internet.",
)

WORDS: dict[Language, Words] = {"zh": ZH, "en": EN}


def choose_language(accept_language: str) -> Language:
    """The language of the page that a browser prefers; Chinese if it accepts neither.

    Args:
        accept_language: The header's value, such as `'fr, en-GB;q=0.8, zh;q=0.5'`.
    """
    accepted: list[tuple[float, Language]] = []
    for part in accept_language.split(","):
        tag, _, parameter = part.partition(";")
        language = tag.strip().lower().split("-")[0]
        for known in LANGUAGES:
            if language == known:
                accepted.append((_quality(parameter), known))
    # `max` returns the first of the highest quality.
    return max(accepted, key=lambda pair: pair[0], default=(1.0, "zh"))[1]


def _quality(parameter: str) -> float:
    name, _, value = parameter.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0
