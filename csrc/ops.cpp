// The table of contents of the native side: every operator, its schema and what it means. An
// operator's kernels are in cpu/<family>/<op>.cpp and cuda/<family>/<op>.cu, its gradient is in
// autograd/<op>.cpp. No argument is keyword-only, as the dispatcher takes a third of a microsecond
// for each keyword; the Python wrappers have keywords.
#include <torch/library.h>

#include "args/topk_part.h"

namespace fastprune {

TORCH_LIBRARY(fastprune, m) {
  // Masks that prune `amount` (a count, or a fraction) of the entries of all scores together, or,
  // if there is one for each of the scores, each of the entries of its own: those of smallest (or
  // largest) magnitude, lowest index first among equals. With factors, |score| * |factor| is
  // ranked. With active_only, entries whose mask is not 1 are neither counted nor ranked, so never
  // pruned. Entries that are not pruned keep their mask.
  m.def(
      "topk_masks(Tensor[] scores, Tensor?[] masks, Scalar[] amount, Tensor?[] factors, "
      "bool active_only=True, bool largest=False, ScalarType? dtype=None) -> Tensor[]");

  // topk_masks, and for each mask the product masked_mul(ts[i], mask); fused, that is both written
  // in one pass, where kFusion of the device allows (common/fusion.h).
  m.def(
      "topk_prune(Tensor[] scores, Tensor?[] masks, Tensor[] ts, Scalar[] amount, "
      "Tensor?[] factors, bool active_only=True) -> (Tensor[] masks, Tensor[] products)");

  // A list of tensors as one of several that are selected from together: see args/topk_part.h.
  define_topk_part();
  m.def(
      "topk_part(Tensor[] scores, Tensor?[] masks, ScalarType keys, bool active_only=True, "
      "bool largest=False, ScalarType? dtype=None) -> "
      "__torch__.torch.classes.fastprune.TopkPart");

  // N:M: dim is cut into runs of m entries, of each of which the n of largest score stay, the
  // lowest index pruned first among equals. Zeros of an old mask count towards the m - n, only
  // entries whose mask is 1 are ranked, and a pruned entry is never restored. With factors, |score|
  // * |factor| is ranked; with is_signed values rather than magnitudes. With both, 2:4 in the rows
  // and in the columns of the matrix that the first two dims are: see common/nm_both.h.
  m.def(
      "nm_masks(Tensor[] scores, Tensor?[] masks, int n, int m, int dim, Tensor?[] factors, "
      "bool is_signed=False, ScalarType? dtype=None, bool both=False) -> Tensor[]");

  // nm_masks, and for each mask the product masked_mul(ts[i], mask), fused where kFusion allows.
  m.def(
      "nm_prune(Tensor[] scores, Tensor?[] masks, Tensor[] ts, int n, int m, int dim, "
      "Tensor?[] factors, bool is_signed=False, bool both=False) -> (Tensor[] masks, Tensor[] "
      "products)");

  // Masks that prune `amount` of the entries of each index of dim: a count, a fraction of its
  // active entries, or with `absolute` a fraction of all, of which those pruned before are a part.
  // The rest as in nm_masks.
  m.def(
      "row_masks(Tensor[] scores, Tensor?[] masks, Scalar amount, int dim, Tensor?[] factors, "
      "bool absolute=False, bool is_signed=False, ScalarType? dtype=None) -> Tensor[]");

  // row_masks, and for each mask the product masked_mul(ts[i], mask), fused where kFusion allows.
  m.def(
      "row_prune(Tensor[] scores, Tensor?[] masks, Tensor[] ts, Scalar amount, int dim, "
      "Tensor?[] factors, bool absolute=False, bool is_signed=False) -> (Tensor[] masks, Tensor[] "
      "products)");

  // The p-norm of each block of the matrix that a tensor's first two dims are (all others are
  // within a block), of the mean over the block rather than the sum; float64. Blocks at the edges
  // may be smaller.
  m.def("block_norms(Tensor[] ts, int[2] block, float p) -> Tensor[]");

  // The old mask where a block is kept, and 0 elsewhere. units: bool, an entry for each block.
  m.def(
      "block_masks(Tensor[] units, Tensor?[] masks, Tensor[] likes, int[2] block, "
      "ScalarType? dtype=None) -> Tensor[]");

  // block_masks with the shapes of ts, and for each mask the product masked_mul(ts[i], mask), fused
  // where kFusion allows.
  m.def(
      "block_prune(Tensor[] units, Tensor?[] masks, Tensor[] ts, int[2] block) -> "
      "(Tensor[] masks, Tensor[] products)");

  // The p-norm of each channel of t along dim, float64.
  m.def("channel_norms(Tensor t, float p, int dim) -> Tensor");

  // The old mask times the mask, of the shape of `like`, that prunes `amount` of the channels:
  // those of lowest score. With active_only, channels whose mask is all zeros are neither counted
  // nor ranked.
  m.def(
      "channel_mask(Tensor scores, Tensor like, Tensor? mask, Scalar amount, int dim, "
      "bool active_only=True) -> Tensor");

  // channel_mask with the shape of t, and the product masked_mul(t, mask); fused if t is contiguous
  // and has the mask's dtype.
  m.def(
      "channel_prune(Tensor scores, Tensor t, Tensor? mask, Scalar amount, int dim, "
      "bool active_only=True) -> (Tensor mask, Tensor product)");

  // old_mask * new_mask in the dtype of the old one.
  m.def("combine_masks(Tensor old_mask, Tensor new_mask) -> Tensor");

  // mask.to(t.dtype) * t, bit for bit.
  m.def("masked_mul(Tensor t, Tensor mask) -> Tensor");
  m.def("masked_mul_(Tensor(a!) t, Tensor mask) -> ()");
  m.def("masked_muls(Tensor[] ts, Tensor[] masks) -> Tensor[]");

  // In place over a list. Where a mask is bool, or packed (one bit an entry: common/packed.h),
  // pruned entries are set to +0 and the others are not touched: a NaN or Inf at a pruned entry of
  // a gradient must not outlive it, as it would a product, and only pruned entries need a write.
  // Any other mask is multiplied as masked_mul_ does. A uint8 mask [rows, 1] of a t of that shape
  // is read as packed.
  m.def("masked_muls_(Tensor(a!)[] ts, Tensor[] masks) -> ()");
}

#ifndef FASTPRUNE_WITH_CUDA
namespace {

void built_without_cuda(const c10::OperatorHandle& op, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.schema().name(),
      "(): got a CUDA tensor, but fastprune was built without CUDA. Rebuild it where torch has "
      "CUDA and CUDA_HOME names a toolkit: FORCE_CUDA=1 pip install --no-build-isolation .");
}

}  // namespace

TORCH_LIBRARY_IMPL(fastprune, CUDA, m) {
  for (const char* op : {"topk_masks", "topk_prune", "topk_part", "nm_masks", "nm_prune",
                         "row_masks", "row_prune", "block_norms", "block_masks", "block_prune",
                         "channel_norms", "channel_mask", "channel_prune", "combine_masks",
                         "masked_mul", "masked_mul_", "masked_muls", "masked_muls_"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&built_without_cuda>());
  }
}
#endif

}  // namespace fastprune
