# A thin front to scripts/, for those whose fingers say make.
.PHONY: setup demo test check
setup: ; scripts/setup
demo: ; scripts/demo
test: ; scripts/test
check: ; .ci/run
