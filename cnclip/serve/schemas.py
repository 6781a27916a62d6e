"""Requests and answers of the HTTP interface, as pydantic models. They are its description, too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

IMAGE = (
    "An image: a data URL, base64 of an image file, or an http(s) URL of a host that the server "
    "allows"
)
_EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGPcaa/BwM"
    "DAxMDAwMDAAAAOOwEkIWfaVAAAAABJRU5ErkJggg=="
)
_ITEM: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 1}},
            "required": ["text"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"image": {"type": "string", "description": IMAGE}},
            "required": ["image"],
            "additionalProperties": False,
        },
    ]
}


Text = Annotated[str, Field(min_length=1)]


class Request(BaseModel):
    """A request. Unknown fields are ignored, as OpenAI's clients expect."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(
        None, description="The model's name; it may be left out where one model is served"
    )


class EmbeddingsRequest(Request):
    """Texts and images to embed, in one of several shapes that clients send.

    `input` is a text, a list of texts, or a list of items `{"text": ...}` and `{"image": ...}`;
    with `modality: image` its strings are images. `messages`, in place of `input`, has parts
    `text` and `image_url` as in OpenAI's chat.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": ["一只猫", "生日蛋糕"]},
                {"input": [{"text": "一只猫"}, {"image": _EXAMPLE_IMAGE}]},
            ]
        }
    )

    input: Any = Field(
        None,
        description="What to embed",
        json_schema_extra={"anyOf": [*_ITEM["anyOf"], {"type": "array", "items": _ITEM}]},
    )
    messages: list[dict[str, Any]] | None = Field(
        None, description="Messages with parts of type text and image_url, as vLLM takes them"
    )
    modality: Literal["text", "image"] = Field(
        "text", description="What strings in `input` are, as infinity takes it"
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: the bytes of little-endian float32"
    )
    dimensions: int | None = Field(
        None, description="The model's number of columns; another number is an error"
    )
    normalize: bool | None = Field(
        None,
        description="Lower-case texts and replace curly quotes; by default if the model's "
        "description says that it was trained so",
    )
    on_error: Literal["request", "item"] = Field(
        "request",
        description="A bad item fails the request with 400; or it has an error in its place",
    )


class ItemError(BaseModel):
    """Why an item has no embedding."""

    message: str
    code: str


class Embedding(BaseModel):
    """The embedding of an item."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="The position of the item in the request, from 0")
    embedding: list[float] | str | None = Field(
        description="A row of unit length; null where the item has an error"
    )
    truncated: Literal[True] | None = Field(
        None, description="Present where the text has more tokens than the model reads"
    )
    error: ItemError | None = Field(None, description="Present where the item has an error")


class Usage(BaseModel):
    """Tokens of the texts, [CLS] and [SEP] of each included; images have none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Embeddings in the order of the items."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class SearchRequest(BaseModel):
    """A query: a text, an image, or both; or `like`, the id of a result, to find similar ones."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"examples": [{"text": "戴眼镜的猫", "k": 5}]}
    )

    collection: str | None = Field(None, description="The collection's name; by default the first")
    text: Text | None = Field(None, description="A query in Chinese")
    image: str | None = Field(None, description=IMAGE)
    like: str | None = Field(None, description="The id of an item of the collection")
    weight: float = Field(0.5, ge=0, le=1, description="Of the text in a query of text and image")
    k: int = Field(10, ge=1, description="The number of results, at most")
    offset: int = Field(0, ge=0, description="Results to leave out at the beginning")
    threshold: float | None = Field(
        None, ge=-1, le=1, description="Leave out results with a lower score"
    )
    normalize: bool | None = Field(None, description="As for embeddings")


class Result(BaseModel):
    """An item of a collection."""

    id: str
    path: str = Field(description="The file or URL; of a text, the file that contains it")
    caption: str = Field(description="A name to show: the text, a label or a file name")
    text: str | None = Field(description="The text; null for an image")
    score: float | None = Field(
        description="Cosine similarity to the query, from -1 to 1; null without a query"
    )
    probability: float | None = Field(
        description="The softmax of the scores of the first k results, divided by the model's "
        "temperature; further results are compared with those k"
    )
    thumbnail: str | None = Field(description="The URL of a small image, relative to the server")
    image: str | None = Field(
        description="The URL of the image file as it is stored, relative to the server"
    )


class TextNotes(BaseModel):
    """What the model cannot see of a text."""

    tokens: int = Field(description="Tokens of the whole text, [CLS] and [SEP] included")
    limit: int = Field(description="Tokens that the model reads")
    kept: str | None = Field(description="The part that is read, where the text is cut; else null")
    unknown: bool = Field(description="The model knows no character of it: results mean nothing")


class SearchAnswer(BaseModel):
    """Results, best first."""

    collection: str
    results: list[Result]
    more: bool = Field(description="Whether there may be further results after these")
    threshold: float | None = Field(
        description="The suggested threshold: results with a lower score mean little"
    )
    text: TextNotes | None = Field(description="Notes on the text of the query")


class ClassifyRequest(Request):
    """An image and labels."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": _EXAMPLE_IMAGE, "labels": ["猫", "狗", "汽车"]}]}
    )

    image: str | None = Field(None, description=f"{IMAGE}. Or send it as a file of a form")
    labels: list[Text] = Field(min_length=2, description="At least two different labels")
    templates: list[str] | None = Field(
        None,
        min_length=1,
        description="Texts in which {} is replaced by a label, such as 一张{}的照片; by default "
        "the labels themselves",
    )
    normalize: bool | None = Field(None, description="As for embeddings")

    @field_validator("labels", "templates", mode="before")
    @classmethod
    def _one_of_a_form(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class LabelShare(BaseModel):
    """A label with its share of the probability."""

    label: str
    probability: float
    score: float = Field(description="Cosine similarity to the image, from -1 to 1")
    text: TextNotes


class ClassifyAnswer(BaseModel):
    """Labels, likeliest first. Repeated ones are merged."""

    model: str
    labels: list[LabelShare]


class TokenizeRequest(Request):
    """Texts to tokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["一只猫"]}]})

    input: list[Text] = Field(
        description="A text, or several",
        json_schema_extra=lambda schema: schema.update(
            anyOf=[schema.pop("items"), {"type": schema.pop("type"), "items": _ITEM["anyOf"][0]}]
        ),
    )
    normalize: bool | None = Field(None, description="As for embeddings")

    @field_validator("input", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Tokens(BaseModel):
    """The tokens of a text."""

    index: int
    ids: list[int] = Field(description="At most as many as the model reads")
    length: int = Field(description="Tokens of the whole text")
    truncated: bool
    unknown: bool = Field(description="The model knows no character of the text")


class TokenizeAnswer(BaseModel):
    """The tokens of each text, in order."""

    model: str
    data: list[Tokens]


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When it was opened, in seconds since 1970")
    owned_by: str = "cnclip"
    digest: str | None
    precision: str
    decode: Literal["exact", "fast"] = Field(
        description="How JPEG files are decoded; those of a search as the collection's were"
    )
    device: str
    dimensions: int
    resolution: int = Field(description="Pixels per side to which images are resized")
    context_length: int = Field(description="Tokens of a text that the model reads")


class ModelList(BaseModel):
    """The models."""

    object: Literal["list"] = "list"
    data: list[Model]


class Examples(BaseModel):
    """Examples that the application offers."""

    queries: list[str]
    image: str | None = Field(description="The id of an image of the collection")
    labels: list[str]


class CollectionEntry(BaseModel):
    """A collection that is served."""

    name: str
    contents: Literal["images", "texts"]
    count: int
    model: str
    examples: Examples


class CollectionList(BaseModel):
    """The collections; the application opens with the first."""

    data: list[CollectionEntry]


class ErrorContent(BaseModel):
    """What happened, and what to do."""

    message: str = Field(description="The reason, with the field or item before it")
    reason: str
    type: str
    param: str | None = Field(description="The field or item of the request, such as input[3]")
    code: str | None


class ErrorAnswer(BaseModel):
    """An error, in OpenAI's shape."""

    error: ErrorContent


class Health(BaseModel):
    """Whether the server works."""

    status: str
    reason: str | None = None
