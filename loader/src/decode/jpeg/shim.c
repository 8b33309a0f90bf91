#include "shim.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jpeglib.h"
#include "jerror.h"

/* The entropy decoder of a scan is replaced through libjpeg's internal interface (jpegint.h), which stands here as far as it is
   used: the headers that are installed don't have it. */
#if LIBJPEG_TURBO_VERSION_NUMBER < 3000000 || LIBJPEG_TURBO_VERSION_NUMBER >= 3002000
#error "libjpeg-turbo 3.0 or 3.1 is needed: in others the internal interface was not looked at"
#endif
struct jpeg_entropy_decoder {
  void (*start_pass)(j_decompress_ptr cinfo);
  boolean (*decode_mcu)(j_decompress_ptr cinfo, JBLOCKROW *MCU_data);
};

struct forebay_jpeg {
  struct jpeg_decompress_struct cinfo;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
  const uint8_t *data;
  size_t length;
  uint32_t max_scans;
  /* forebay_jpeg_unit decodes into the first; `coded` is where the scan's data starts, 0 while libjpeg decodes. */
  struct forebay_scan *scan;
  size_t coded;
};

static void fail(j_common_ptr cinfo) {
  forebay_jpeg *jpeg = (forebay_jpeg *)cinfo->client_data;
  (*cinfo->err->format_message)(cinfo, jpeg->message);
  longjmp(jpeg->jump, 1);
}

/* libjpeg goes on after these with grey or garbage: for training that is a corrupt sample, not a picture. What it can
   repair without loss (bytes between segments, an odd Adobe or JFIF marker) stays a warning, as in Pillow. */
static void warn(j_common_ptr cinfo, int level) {
  if (level >= 0) return;
  switch (cinfo->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
      fail(cinfo);
  }
  cinfo->err->num_warnings++;
}

static void silent(j_common_ptr cinfo) { (void)cinfo; }

/* A small file can claim thousands of scans over a large image, each a pass over all coefficients. */
static void count_scans(j_common_ptr common) {
  forebay_jpeg *jpeg = (forebay_jpeg *)common->client_data;
  if (common->is_decompressor && (uint32_t)((j_decompress_ptr)common)->input_scan_number > jpeg->max_scans) {
    snprintf(jpeg->message, sizeof jpeg->message, "more than %u scans", (unsigned)jpeg->max_scans);
    longjmp(jpeg->jump, 1);
  }
}

/* Apart, so that no local of the caller lives across the jump. */
static int create(forebay_jpeg *jpeg) {
  if (setjmp(jpeg->jump)) return 1;
  jpeg_create_decompress(&jpeg->cinfo);
  /* jpeg_create_decompress clears the structure but for err and client_data. */
  jpeg->progress.progress_monitor = count_scans;
  jpeg->cinfo.progress = &jpeg->progress;
  jpeg_save_markers(&jpeg->cinfo, JPEG_APP0 + 1, 0xFFFF);
  return 0;
}

forebay_jpeg *forebay_jpeg_new(struct forebay_scan *scan) {
  forebay_jpeg *jpeg = calloc(1, sizeof *jpeg);
  if (jpeg == NULL) return NULL;
  jpeg->scan = scan;
  jpeg->cinfo.err = jpeg_std_error(&jpeg->errors);
  jpeg->errors.error_exit = fail;
  jpeg->errors.emit_message = warn;
  jpeg->errors.output_message = silent;
  jpeg->cinfo.client_data = jpeg;
  if (create(jpeg) != 0) {
    forebay_jpeg_free(jpeg);
    return NULL;
  }
  return jpeg;
}

void forebay_jpeg_free(forebay_jpeg *jpeg) {
  if (jpeg == NULL) return;
  jpeg_destroy_decompress(&jpeg->cinfo);
  free(jpeg);
}

void forebay_jpeg_abort(forebay_jpeg *jpeg) {
  /* Frees the image's pool; nothing in it raises. */
  jpeg_abort_decompress(&jpeg->cinfo);
}

const char *forebay_jpeg_message(const forebay_jpeg *jpeg) { return jpeg->message; }

size_t forebay_jpeg_offset(const forebay_jpeg *jpeg) {
  const struct jpeg_source_mgr *src = jpeg->cinfo.src;
  if (jpeg->coded != 0)
    return jpeg->coded + forebay_jpeg_position(jpeg->scan, jpeg->data + jpeg->coded, jpeg->length - jpeg->coded);
  if (src == NULL || src->bytes_in_buffer > jpeg->length) return jpeg->length;
  return jpeg->length - src->bytes_in_buffer;
}

static void find_exif(const struct jpeg_decompress_struct *cinfo, forebay_jpeg_header *header) {
  for (const struct jpeg_marker_struct *marker = cinfo->marker_list; marker != NULL; marker = marker->next) {
    if (marker->marker == JPEG_APP0 + 1 && marker->data_length > 6 && memcmp(marker->data, "Exif\0\0", 6) == 0) {
      header->exif = marker->data + 6;
      header->exif_length = marker->data_length - 6;
      return;
    }
  }
}

int forebay_jpeg_read_header(forebay_jpeg *jpeg, const uint8_t *data, size_t length, forebay_jpeg_header *header) {
  struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
  memset(header, 0, sizeof *header);
  jpeg->message[0] = 0;
  jpeg->data = data;
  jpeg->length = length;
  jpeg->coded = 0;
  jpeg->max_scans = UINT32_MAX;
  if (setjmp(jpeg->jump)) return 1;
  jpeg_mem_src(cinfo, data, length);
  jpeg_read_header(cinfo, TRUE);
  header->width = cinfo->image_width;
  header->height = cinfo->image_height;
  header->components = (uint32_t)cinfo->num_components;
  switch (cinfo->jpeg_color_space) {
    case JCS_GRAYSCALE: header->color = 1; break;
    case JCS_RGB:
    case JCS_YCbCr: header->color = 2; break;
    case JCS_CMYK:
    case JCS_YCCK: header->color = 3; break;
    default: header->color = 0;
  }
  header->multiple_scans = (uint32_t)jpeg_has_multiple_scans(cinfo);
  header->precision = (uint32_t)cinfo->data_precision;
  header->max_h_samp = (uint32_t)cinfo->max_h_samp_factor;
  header->max_v_samp = (uint32_t)cinfo->max_v_samp_factor;
  for (int i = 0; i < cinfo->num_components; i++) {
    const jpeg_component_info *component = &cinfo->comp_info[i];
    uint64_t blocks = (uint64_t)component->width_in_blocks * component->height_in_blocks;
    header->coefficient_bytes += blocks * DCTSIZE2 * sizeof(JCOEF);
    /* Lossless coding has "blocks" of one sample; nothing public says so more directly. */
    if (component->h_samp_factor == cinfo->max_h_samp_factor && component->width_in_blocks == cinfo->image_width &&
        cinfo->image_width > 1)
      header->lossless = 1;
  }
  header->data_offset = forebay_jpeg_offset(jpeg);
  find_exif(cinfo, header);
  return 0;
}

static boolean decode_unit(j_decompress_ptr cinfo, JBLOCKROW *blocks) {
  forebay_jpeg *jpeg = (forebay_jpeg *)cinfo->client_data;
  /* libjpeg allocates the blocks of a unit as one piece. */
  switch (forebay_jpeg_unit(jpeg->scan, blocks == NULL ? NULL : (int16_t *)blocks[0])) {
    case 0: return TRUE;
    case 1: ERREXIT(cinfo, JWRN_HUFF_BAD_CODE); break;
    case 2: ERREXIT(cinfo, JWRN_HIT_MARKER); break;
    default: ERREXIT(cinfo, JWRN_MUST_RESYNC);
  }
  return FALSE;
}

/* The columns of units that the window needs, as jpeg_crop_scanline computes them. */
static void find_columns(const struct jpeg_decompress_struct *cinfo, const forebay_jpeg_window *window, forebay_scan_layout *layout) {
  uint32_t width = DCTSIZE / window->denominator;
  if (cinfo->num_components > 1) width *= (uint32_t)cinfo->max_h_samp_factor;
  layout->first_column = window->x / width;
  layout->last_column = (window->x + window->width - 1) / width;
}

static void replace_entropy_decoder(forebay_jpeg *jpeg, const forebay_jpeg_window *window) {
  struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
  forebay_scan_layout layout = {0};
  if (jpeg->scan == NULL || jpeg_has_multiple_scans(cinfo) || cinfo->progressive_mode || cinfo->arith_code) return;
  layout.blocks = (uint32_t)cinfo->blocks_in_MCU;
  for (int i = 0; i < cinfo->blocks_in_MCU; i++) {
    const jpeg_component_info *component = cinfo->cur_comp_info[cinfo->MCU_membership[i]];
    layout.component[i] = (uint8_t)cinfo->MCU_membership[i];
    layout.dc_table[i] = (uint8_t)component->dc_tbl_no;
    layout.ac_table[i] = (uint8_t)component->ac_tbl_no;
#if JPEG_LIB_VERSION >= 70
    layout.ac_needed[i] = component->DCT_h_scaled_size > 1;
#else
    layout.ac_needed[i] = component->DCT_scaled_size > 1;
#endif
  }
  layout.restart_interval = cinfo->restart_interval;
  layout.units_per_row = cinfo->MCUs_per_row;
  layout.units = (uint64_t)cinfo->MCUs_per_row * cinfo->MCU_rows_in_scan;
  find_columns(cinfo, window, &layout);
  layout.data = cinfo->src->next_input_byte;
  layout.length = cinfo->src->bytes_in_buffer;
  for (int i = 0; i < NUM_HUFF_TBLS; i++) {
    const JHUFF_TBL *dc = cinfo->dc_huff_tbl_ptrs[i], *ac = cinfo->ac_huff_tbl_ptrs[i];
    layout.dc_counts[i] = dc == NULL ? NULL : dc->bits;
    layout.dc_symbols[i] = dc == NULL ? NULL : dc->huffval;
    layout.ac_counts[i] = ac == NULL ? NULL : ac->bits;
    layout.ac_symbols[i] = ac == NULL ? NULL : ac->huffval;
  }
  if (!forebay_jpeg_begin(jpeg->scan, &layout)) return;
  jpeg->coded = forebay_jpeg_offset(jpeg);
  cinfo->entropy->decode_mcu = decode_unit;
}

int forebay_jpeg_start(forebay_jpeg *jpeg, forebay_jpeg_window *window) {
  struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
  if (setjmp(jpeg->jump)) return 1;
  jpeg->max_scans = window->max_scans;
  cinfo->out_color_space = window->cmyk ? JCS_CMYK : JCS_RGB;
  cinfo->scale_num = 1;
  cinfo->scale_denom = window->denominator;
  cinfo->dct_method = JDCT_ISLOW;
  cinfo->do_fancy_upsampling = TRUE;
  cinfo->mem->max_memory_to_use = (long)window->max_memory;
  if (!jpeg_start_decompress(cinfo)) ERREXIT(cinfo, JERR_CANT_SUSPEND);
  window->scaled_width = cinfo->output_width;
  window->scaled_height = cinfo->output_height;
  if (window->x >= cinfo->output_width || window->width == 0 || window->width > cinfo->output_width - window->x)
    ERREXIT(cinfo, JERR_WIDTH_OVERFLOW);
  if (window->width < cinfo->output_width) {
    JDIMENSION x = window->x, width = window->width;
    jpeg_crop_scanline(cinfo, &x, &width);
    window->x = x;
    window->width = width;
  }
  replace_entropy_decoder(jpeg, window);
  return 0;
}

int forebay_jpeg_rows(forebay_jpeg *jpeg, uint32_t skip, uint32_t rows, uint8_t *out, size_t stride) {
  struct jpeg_decompress_struct *cinfo = &jpeg->cinfo;
  if (setjmp(jpeg->jump)) return 1;
  if (skip > 0 && jpeg_skip_scanlines(cinfo, skip) != skip) ERREXIT(cinfo, JERR_TOO_LITTLE_DATA);
  for (uint32_t done = 0; done < rows;) {
    JSAMPROW lines[8];
    uint32_t count = rows - done < 8 ? rows - done : 8;
    for (uint32_t i = 0; i < count; i++) lines[i] = out + (size_t)(done + i) * stride;
    uint32_t read = jpeg_read_scanlines(cinfo, lines, count);
    if (read == 0) ERREXIT(cinfo, JERR_TOO_LITTLE_DATA);
    done += read;
  }
  return 0;
}

static void read_units(struct jpeg_decompress_struct *cinfo) {
  JBLOCK blocks[D_MAX_BLOCKS_IN_MCU];
  JBLOCKROW rows[D_MAX_BLOCKS_IN_MCU];
  uint64_t units = (uint64_t)cinfo->MCUs_per_row * cinfo->MCU_rows_in_scan;
  for (int i = 0; i < D_MAX_BLOCKS_IN_MCU; i++) rows[i] = &blocks[i];
  for (; units > 0; units--) {
    memset(blocks, 0, sizeof(JBLOCK) * (size_t)cinfo->blocks_in_MCU);
    if (!cinfo->entropy->decode_mcu(cinfo, rows)) ERREXIT(cinfo, JERR_CANT_SUSPEND);
  }
}

int forebay_jpeg_coefficients(forebay_jpeg *jpeg) {
  if (setjmp(jpeg->jump)) return 1;
  if (jpeg_has_multiple_scans(&jpeg->cinfo) || jpeg->cinfo.progressive_mode) {
    snprintf(jpeg->message, sizeof jpeg->message, "coefficients alone: not one baseline scan");
    return 1;
  }
  read_units(&jpeg->cinfo);
  return 0;
}
