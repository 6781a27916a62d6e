"""Prints the errors of data sets that cannot be opened."""

import json
import sys

from modelscope.msdatasets import MsDataset

for options in json.loads(sys.argv[1]):
    try:
        MsDataset.load(**{"dataset_name": "muge", **options})
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("no error")
