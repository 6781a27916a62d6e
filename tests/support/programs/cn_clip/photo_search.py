"""A folder of images through a DataLoader with workers, searched by text."""

import json
from pathlib import Path

import torch
from cn_clip import clip
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Photos(Dataset):
    def __init__(self, folder, transform):
        self.files = sorted(Path(folder).glob("*.png"))
        self.transform = transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return self.transform(Image.open(self.files[index])), str(self.files[index].stem)


@torch.no_grad()
def embed(model, loader):
    rows, names = [], []
    for pixels, stems in loader:
        rows.append(torch.nn.functional.normalize(model.encode_image(pixels), dim=-1))
        names += stems
    return torch.cat(rows), names


def main():
    model, preprocess = clip.load_from_name("ViT-B-16", "cpu", ".")
    model.eval()
    photos = Photos("photos", preprocess)
    loader = DataLoader(photos, 4, num_workers=1, multiprocessing_context="fork")
    rows, names = embed(model, loader)
    found = {}
    for query in ("猫", "房子", "汽车"):
        with torch.no_grad():
            text = model.encode_text(clip.tokenize(query))
        text = text / text.norm(dim=-1, keepdim=True)
        scores, places = (text @ rows.T)[0].topk(3)
        found[query] = [scores.tolist(), [names[place] for place in places]]
    print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
