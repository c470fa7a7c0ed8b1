// The multiply-adds of all products of matrices that `compute` makes in this memory.
export function multiplyAdds(memory, compute) {
  const { simd } = memory;
  let count = 0;
  const multiply = (...given) => {
    const [m, n, k] = given.slice(8);
    count += m * n * k;
    simd.multiply(...given);
  };
  memory.simd = { ...simd, multiply };
  compute();
  memory.simd = simd;
  return count;
}
