/* How rows are cut into tiles, for files that have defined TILE_ROWS, the most that a tile has. */
#ifndef CNCLIP_TILE_ROWS_H
#define CNCLIP_TILE_ROWS_H

#include <stddef.h>

/* Tiles are as even as can be: one of few rows takes nearly as long as a full one. */
static inline size_t tile_count(size_t rows) {
  return (rows + TILE_ROWS - 1) / TILE_ROWS;
}

static inline size_t tile_first_row(size_t rows, size_t tile) {
  return rows * tile / tile_count(rows);
}

#endif
