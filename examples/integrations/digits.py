"""1,797 handwritten digits of 8x8, as scikit-learn has them: images from 0 to 1, and labels."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

data = load_digits()
images = torch.tensor(data.images / 16, dtype=torch.float32)
train_x, test_x, train_y, test_y = train_test_split(
    images, torch.tensor(data.target), test_size=360, random_state=0, stratify=data.target
)


def network():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 10)
    )


def batches(size=64):
    for rows in torch.randperm(len(train_x)).split(size):
        yield train_x[rows], train_y[rows]


def accuracy(model):
    model.eval()
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).float().mean().item()
