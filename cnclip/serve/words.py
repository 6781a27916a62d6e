"""The texts of the page, in Chinese and English."""

from __future__ import annotations

from .._locale import LANGUAGES, Language, translations

# Filled in with `str.format`. `tag` is the language tag of HTML, `other` is the text of the link to
# the page in the other language.
WORDS = translations(
    tag=("zh-CN", "en"),
    other=("English", "中文"),
    title=("图文检索", "Image search"),
    subtitle=(
        "用中文描述，或用一张图片，找到相近的图片。",
        "Describe an image in Chinese, or upload one, to find similar images.",
    ),
    collection=("图库", "Collection"),
    images=("{count} 张图片", "{count} images"),
    texts=("{count} 条文本", "{count} texts"),
    one_image=("1 张图片", "1 image"),
    one_text=("1 条文本", "1 text"),
    search_tab=("检索", "Search"),
    query=("查询文本", "Query, in Chinese"),
    query_example=("例如：戴眼镜的猫", "such as 戴眼镜的猫"),
    query_hint=(
        "最多 {limit} 个字（一个汉字计 1，连续的字母或数字计 1）",
        "Up to {limit} words; each Chinese character counts as one.",
    ),
    search=("检索", "Search"),
    image=("以图搜图（可与文字同时使用）", "Search by image (alone, or with a text)"),
    options=("选项", "Options"),
    weight=("文本权重", "Weight of the text"),
    weight_hint=("仅当文本和图片同时使用时有效", "Used only if both a text and an image are given"),
    count=("结果数量", "Number of results"),
    labels_tab=("零样本分类", "Label an image"),
    label_image=("图片", "Image"),
    labels=("候选标签", "Labels, in Chinese"),
    labels_hint=("每行一个，也可用逗号或顿号分隔", "One per line, or separated by commas"),
    compute=("开始分类", "Compute"),
    example=("示例", "Example"),
    glimpse=("图库预览", "Preview of the collection"),
    no_image=("无法显示图片", "No image to show"),
    enlarge=("放大", "Enlarge"),
    found_nothing=("没有结果。", "No results."),
    reach=(
        "{count} 个结果中，有 {above} 个达到建议阈值 {threshold}。",
        "{above} of {count} results reach the suggested threshold, {threshold}.",
    ),
    reaches=("达到建议阈值", "Reaches the suggested threshold"),
    cut=(
        "文本共 {ids} 个 token，超过模型上限 {limit}，「{kept}」之后的内容已被截断，不参与检索。",
        "The text has {ids} tokens, more than the model's limit of {limit}: "
        "everything after “{kept}” was ignored.",
    ),
    cut_label=(
        "标签「{label}」超过模型上限 {limit} 个 token，「{kept}」之后的内容已被截断。",
        "The label “{label}” has more tokens than the model's limit of {limit}: "
        "everything after “{kept}” was ignored.",
    ),
    unknown=(
        "模型不认识文本中的任何字符，结果没有意义。",
        "The model knows no character of the text: the results mean nothing.",
    ),
    unknown_label=(
        "模型不认识标签「{label}」中的任何字符，它的概率没有意义。",
        "The model knows no character of the label “{label}”: its probability means nothing.",
    ),
    dropped=("重复的标签已合并。", "Duplicate labels were merged."),
    nothing_asked=("请输入文本，或上传一张图片。", "Type a text, or upload an image."),
    too_many_words=(
        "文本有 {words} 个字，最多 {limit} 个，请缩短后再试。",
        "The text has {words} words, the limit is {limit}: please shorten it.",
    ),
    too_many_characters=(
        "文本有 {characters} 个字符，最多 {limit} 个，请缩短后再试。",
        "The text has {characters} characters, the limit is {limit}: please shorten it.",
    ),
    bad_image=(
        "无法读取这个文件，请上传 JPEG、PNG、WebP 等格式的图片。",
        "This file cannot be read as an image. Please upload JPEG, PNG, WebP or similar.",
    ),
    no_label_image=("请先上传一张图片。", "Upload an image first."),
    too_few_labels=("请输入至少两个不同的标签。", "Type at least two different labels."),
    too_many_labels=(
        "有 {labels} 个标签，最多 {limit} 个。",
        "There are {labels} labels, the limit is {limit}.",
    ),
    failed=("出错了：{error}", "Something went wrong: {error}"),
    tabs=("功能", "Functions"),
    upload_how=("点击选择、拖入或粘贴图片", "Click to choose, drop or paste an image"),
    remove=("移除图片", "Remove the image"),
    more=("加载更多", "More results"),
    like=("找相似", "More like this"),
    similar=("与所选结果相近的内容：", "Similar to the chosen result:"),
    copy_path=("复制路径", "Copy path"),
    copy_text=("复制文本", "Copy text"),
    copied=("已复制。", "Copied."),
    download=("下载", "Download"),
    close=("关闭", "Close"),
    opening=("正在加载模型，请稍候……", "The model is being opened …"),
    key=("访问密钥", "API key"),
    use_key=("继续", "Continue"),
    offline=(
        "所有计算均在本机完成，无需联网。",
        "Everything is computed on this machine, without the internet.",
    ),
)
ZH, EN = WORDS["zh"], WORDS["en"]


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
