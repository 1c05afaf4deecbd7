"""stub"""
import csv, soundfile
from pathlib import Path
def prepare_librispeech(data_folder, save_folder, splits, skip_prep=False, skip_bad=False, num_workers=None):
    Path(save_folder).mkdir(parents=True, exist_ok=True)
    for s in splits:
        with open(Path(save_folder)/f"{s}.csv","w") as f:
            w=csv.writer(f); w.writerow(["ID","duration","wav","spk_id"])
            for p in sorted(Path(data_folder,s).rglob("*.flac")):
                w.writerow([p.stem, soundfile.info(p).duration, "$data_root/"+p.relative_to(data_folder).as_posix(), p.stem.split("-")[0]])
