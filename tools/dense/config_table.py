"""Write the tables of configs/detection/README.md and configs/segmentation/README.md.

python tools/dense/config_table.py            # measure all configs (some minutes) and rewrite both tables
python tools/dense/config_table.py --check    # exit 1 if they are out of date
"""

from backbones.dense.config_table import main

if __name__ == "__main__":
    main()
