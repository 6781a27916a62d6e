"""Texts embedded by worker processes."""

import multiprocessing
import sys

from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

pipe = None


def embed(text):
    global pipe
    if pipe is None:
        pipe = pipeline(Tasks.multi_modal_embedding, model=sys.argv[1])
    return pipe.forward({"text": text})["text_embedding"][0, :4].tolist()


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for row in pool.map(embed, ["猫", "皮卡丘"]):
            print(" ".join(f"{value:.7f}" for value in row))
