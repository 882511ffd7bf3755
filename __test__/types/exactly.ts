type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false

/** `exactly<T>()(value)` compiles only where the value's type is T itself, neither narrower nor wider. */
export declare function exactly<T>(): <U>(value: U, ...different: Equal<T, U> extends true ? [] : [never]) => void

/** Compiles only where the two types are the same. */
export declare function same<A, B>(...different: Equal<A, B> extends true ? [] : [never]): void
