// What the page asks of WebAssembly: products, powers of e and GELU, for several numbers at a time.
//
// AssemblyScript: `npm run wasm` makes simd.wasm of it, and simd-fused.wasm for browsers that multiply and add in one
// instruction. Addresses and strides are in bytes.

export { exponential } from "./exponential";
export { gelu } from "./gelu";
export { multiply } from "./multiply";
