"""Write the model table of README.md: measured parameters and GMACs, published top-1, parity error.

python tools/model_table.py            # measure everything (a few minutes) and rewrite the table
python tools/model_table.py --check    # exit 1 if parameters, GMACs or top-1 in README.md are not what is measured
"""

from backbones.model_table import main

if __name__ == "__main__":
    main()
