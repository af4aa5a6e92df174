// Lets tests send a selection down its rare path, and see that it went there.
#pragma once

namespace fastprune::cpu {

// Whether samples are taken to have misled; false outside tests.
bool& force_fallback();

// How many selections have fallen back from a sample to histograms.
long& fallbacks();

}  // namespace fastprune::cpu
