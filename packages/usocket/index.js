'use strict'

try {
  module.exports = require('fdpass/usocket')
} catch {
  // Jest's loader knows no require() of an ES module, and before Jest 28 no "exports" of a package; Node's own does.
  module.exports = process.getBuiltinModule('module').createRequire(__filename)('fdpass/usocket')
}
