# Compiler flags of the core. Makefile includes this file and setup.py reads it: each line is
# NAME := flags, where $(NAME) repeats the flags of a line above.
FLAGS_c := -std=c11 -Wall -Wextra -Wstrict-prototypes -Wshadow -ffp-contract=off

# On x86-64. A file whose name ends in _avx2 is compiled with FLAGS_avx2 and so on, all others with
# FLAGS_baseline.
ISAS := avx2 avx512 avx512_vnni avx512_bf16
FLAGS_baseline := -march=x86-64-v2
FLAGS_avx2 := -mavx2
FLAGS_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
FLAGS_avx512_vnni := $(FLAGS_avx512) -mavx512vnni
FLAGS_avx512_bf16 := $(FLAGS_avx512_vnni) -mavx512bf16
