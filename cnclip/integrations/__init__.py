"""cnclip's embeddings in other libraries. One module per library, which imports that library.

| module | class | is |
|---|---|---|
| `langchain.py` | `CnclipEmbeddings` | LangChain's `Embeddings`, also of images |
| `llama_index.py` | `CnclipEmbedding` | LlamaIndex's `MultiModalEmbedding` |
| `chroma.py` | `CnclipEmbeddingFunction` | Chroma's `EmbeddingFunction`, of documents and images |
| `milvus.py` | `CnclipEmbeddingFunction` | pymilvus' `BaseEmbeddingFunction` |
| `columns.py` | `EmbedColumns` | a function of batches, for `datasets`, Ray Data and Daft |
| `sklearn.py` | `CnclipTransformer` | a transformer of scikit-learn |

Each takes an open pipeline, or a model's name with its options, which is opened when it is first
used. Objects are pickled by that name and those options, see `named_model.py`. Texts are put in
lower case where the model was trained so, as in a search.

A module whose library is missing raises a MissingExtraError, which names the extra to install. May
import everything but commands and applications.
"""
