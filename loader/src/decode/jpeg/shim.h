/* libjpeg-turbo for Rust: every error ends inside these functions (setjmp), none jumps over a Rust frame. */
#ifndef FOREBAY_JPEG_SHIM_H
#define FOREBAY_JPEG_SHIM_H

#include <stddef.h>
#include <stdint.h>

typedef struct forebay_jpeg forebay_jpeg;

/* What a file's header says. `exif` points into memory that lives until the next header, abort or free. */
typedef struct {
  uint32_t width;
  uint32_t height;
  uint32_t components;
  uint32_t color; /* 0 other, 1 grey, 2 RGB or YCbCr, 3 CMYK or YCCK */
  uint32_t multiple_scans;
  uint32_t lossless;
  uint32_t precision;
  uint32_t max_h_samp;
  uint32_t max_v_samp;
  uint64_t coefficient_bytes; /* what all coefficients take, held at once where there are multiple scans */
  uint64_t data_offset;       /* where the first scan's data starts */
  const uint8_t *exif;
  uint64_t exif_length;
} forebay_jpeg_header;

/* In: the columns wanted of the scaled image. Out: the columns that rows will have, and the scaled size. */
typedef struct {
  uint32_t denominator; /* 1, 2, 4, 8 */
  uint32_t cmyk;        /* rows of 4 samples, as stored, instead of RGB */
  uint32_t max_scans;
  uint64_t max_memory;
  uint32_t x;
  uint32_t width;
  uint32_t scaled_width;
  uint32_t scaled_height;
} forebay_jpeg_window;

/* The decoder of a scan's coefficients, written in Rust: see scan.rs for what its functions promise. */
struct forebay_scan;

typedef struct {
  uint32_t blocks;
  uint8_t component[10];
  uint8_t dc_table[10];
  uint8_t ac_table[10];
  uint8_t ac_needed[10];
  uint32_t restart_interval;
  uint32_t units_per_row;
  uint64_t units;
  uint32_t first_column;
  uint32_t last_column;
  const uint8_t *data;
  size_t length;
  const uint8_t *dc_counts[4];
  const uint8_t *dc_symbols[4];
  const uint8_t *ac_counts[4];
  const uint8_t *ac_symbols[4];
} forebay_scan_layout;

uint32_t forebay_jpeg_begin(struct forebay_scan *scan, const forebay_scan_layout *layout);
uint32_t forebay_jpeg_unit(struct forebay_scan *scan, int16_t *blocks);
size_t forebay_jpeg_position(const struct forebay_scan *scan, const uint8_t *data, size_t length);

/* NULL: out of memory. `scan` must live until forebay_jpeg_free; without one libjpeg decodes all coefficients. */
forebay_jpeg *forebay_jpeg_new(struct forebay_scan *scan);
void forebay_jpeg_free(forebay_jpeg *jpeg);

/* 0: done; 1: failed, see forebay_jpeg_message. `data` must live until forebay_jpeg_abort. */
int forebay_jpeg_read_header(forebay_jpeg *jpeg, const uint8_t *data, size_t length, forebay_jpeg_header *header);
int forebay_jpeg_start(forebay_jpeg *jpeg, forebay_jpeg_window *window);
/* Skips `skip` rows, then writes `rows` rows, `stride` bytes apart. */
int forebay_jpeg_rows(forebay_jpeg *jpeg, uint32_t skip, uint32_t rows, uint8_t *out, size_t stride);
/* Instead of rows, for measuring: the coefficients of the whole scan, which go nowhere. Baseline files of one scan only. */
int forebay_jpeg_coefficients(forebay_jpeg *jpeg);
/* Forgets the image; frees what was allocated for it. */
void forebay_jpeg_abort(forebay_jpeg *jpeg);

/* What went wrong, and how far the file had been read. */
const char *forebay_jpeg_message(const forebay_jpeg *jpeg);
size_t forebay_jpeg_offset(const forebay_jpeg *jpeg);

#endif
