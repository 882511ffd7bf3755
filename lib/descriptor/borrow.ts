/** The key of the method by which this package's own objects lend their descriptor number for one call. */
export const borrow: unique symbol = Symbol('borrow')

/** An object of this package that holds a descriptor: a `Descriptor`, `UnixSocket` or `UnixServer`. */
export interface FdHolder {
  /**
   * Returns the number for one call; throws once the object is closed.
   *
   * @hidden
   */
  [borrow](): number
}
