/** Random numbers that a seed repeats (mulberry32). */
export function generator(seed: number) {
  let state = seed
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    /** An integer from 0 on, below a bound. */
    below: (bound: number): number => Math.floor(next() * bound),
    /** An integer from 0 to a bound, as often below 10 as between 10 and 100. */
    skewed: (most: number): number => Math.floor((most + 1) ** next()) - 1
  }
}
