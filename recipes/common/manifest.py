"""stub"""
from speechbrain.dataio.dataset import DynamicItemDataset


def load_dataset(path, data_root):
    return DynamicItemDataset.from_csv(str(path), replacements={"data_root": str(data_root)})
def validate_manifests(named, data_root, disjoint_speakers=None):
    pass
def fingerprint(paths):
    return "stub"
