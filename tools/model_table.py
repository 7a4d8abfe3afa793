"""Write the tables of models: docs/models.md, and the row a family in README.md.

python tools/model_table.py            # measure everything (a few minutes) and rewrite both
python tools/model_table.py --check    # exit 1 if parameters, GMACs or top-1 there are not what is measured
"""

from backbones.benchmark.model_table import main

if __name__ == "__main__":
    main()
