"""Prints what a data set has, as programs that train or show images read it."""

import sys

from modelscope import MsDataset

name, split, *options = sys.argv[1:]
data = MsDataset.load(
    name, namespace="modelscope", split=split, **dict(o.split("=") for o in options)
)
print(len(data), *sorted(data[0]))
for row in data:
    print(row["query_id"], row["query"], row["image_id"], row["image"].mode, *row["image"].size)
print(data.ds_instance.num_rows, data[:2]["query"], data["image_id"][-1])
print(data.remap_columns({"query": "text"}).column_names)
