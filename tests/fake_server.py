"""`vit-hybrid serve` with the workers of `fake_worker`."""

from vit_hybrid.cli.main import main
from vit_hybrid.serve import explanations, workers

workers.START = "from fake_worker import main; main()"
explanations.START = "from fake_worker import explain; explain()"

if __name__ == "__main__":
    main()
