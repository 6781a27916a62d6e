/* Lets a machine with AVX2 and without AVX-VNNI execute vpdpbusd of three ymm registers: a handler
 * of SIGILL decodes and computes it. Slow, a microsecond each. */
#ifndef CNCLIP_TESTS_VNNI_EMULATOR_H
#define CNCLIP_TESTS_VNNI_EMULATOR_H

#if defined(__x86_64__) && defined(__linux__)

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { XSAVE_HEADER = 512, XSAVE_UPPER_HALVES = 576, XSAVE_YMM = 1 << 2, VPDPBUSD_BYTES = 5 };

typedef struct {
  uint8_t bytes[32];
} ymm_register;

/* The saved state has the lower halves of the registers in fpregs, and the upper ones after the
 * header of its extension, in the standard format of XSAVE (Intel SDM, volume 1, chapter 13). */
static void move_ymm(ucontext_t *context, int number, ymm_register *value, int is_store) {
  char *area = (char *)context->uc_mcontext.fpregs;
  char *halves[] = {(char *)&context->uc_mcontext.fpregs->_xmm[number],
                    area + XSAVE_UPPER_HALVES + 16 * number};
  uint64_t present;
  memcpy(&present, area + XSAVE_HEADER, sizeof present);
  if (!(present & XSAVE_YMM)) memset(area + XSAVE_UPPER_HALVES, 0, (size_t)16 * 16);
  present |= XSAVE_YMM;
  memcpy(area + XSAVE_HEADER, &present, sizeof present);
  for (int half = 0; half < 2; half++) {
    if (is_store) {
      memcpy(halves[half], value->bytes + 16 * half, 16);
    } else {
      memcpy(value->bytes + 16 * half, halves[half], 16);
    }
  }
}

/* VEX.256.66.0F38.W0 50 /r, with a register as its last operand. */
static int is_vpdpbusd(const uint8_t *code) {
  return code[0] == 0xC4 && (code[1] & 0x5F) == 0x42 && (code[2] & 0x87) == 0x05 &&
         code[3] == 0x50 && code[4] >= 0xC0;
}

static void emulate_vpdpbusd(int signal_number, siginfo_t *info, void *state) {
  ucontext_t *context = state;
  const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
  (void)info;
  if (!is_vpdpbusd(code)) {
    signal(signal_number, SIG_DFL); /* and it happens again */
    return;
  }
  const int to = (code[4] >> 3 & 7) | (code[1] & 0x80 ? 0 : 8);
  const int columns = (code[4] & 7) | (code[1] & 0x20 ? 0 : 8), row = ~code[2] >> 3 & 15;
  ymm_register sums, u8, s8;
  move_ymm(context, to, &sums, 0);
  move_ymm(context, row, &u8, 0);
  move_ymm(context, columns, &s8, 0);
  for (int lane = 0; lane < 8; lane++) {
    uint32_t sum;
    memcpy(&sum, sums.bytes + 4 * lane, sizeof sum);
    for (int i = 4 * lane; i < 4 * lane + 4; i++) {
      sum += (uint32_t)(u8.bytes[i] * (int8_t)s8.bytes[i]);
    }
    memcpy(sums.bytes + 4 * lane, &sum, sizeof sum);
  }
  move_ymm(context, to, &sums, 1);
  context->uc_mcontext.gregs[REG_RIP] += VPDPBUSD_BYTES;
}

static int emulate_vnni(void) {
  struct sigaction action = {.sa_sigaction = emulate_vpdpbusd, .sa_flags = SA_SIGINFO};
  return sigaction(SIGILL, &action, NULL) == 0;
}

#elif defined(__x86_64__)

static int emulate_vnni(void) {
  return 0;
}

#endif

#endif
