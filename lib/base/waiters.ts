/** Something that waits, and its end. */
export interface Pending<T> {
  readonly resolve: (value: T) => void
  /** What ends it at an abort. */
  abortion: Disposable | undefined
}

/** Ends what waits, once. */
export function settle<T>(pending: Pending<T>, value: T): void {
  pending.abortion?.[Symbol.dispose]()
  pending.abortion = undefined
  pending.resolve(value)
}
