"""Several models of the same task, some of which need ModelScope itself."""

import sys

from modelscope.models.nlp import SbertForSequenceClassification
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

for name in sys.argv[1:]:
    try:
        pipe = pipeline(Tasks.multi_modal_embedding, model=name)
        answer = pipe.forward({"text": ["猫"]})
        print(name, type(answer["text_embedding"]).__name__)
    except ImportError as error:
        print(name, type(error).__name__, error)


def derive():
    class Mine(SbertForSequenceClassification):
        pass

    return Mine


for use in (
    lambda: SbertForSequenceClassification(),
    derive,
    lambda: SbertForSequenceClassification.from_pretrained("x"),
    lambda: pipeline(Tasks.text_classification),
):
    try:
        print(use())
    except ImportError as error:
        print(type(error).__name__, error.name)
