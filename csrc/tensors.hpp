// What a kernel relies on of a tensor, asked of torch itself for many tensors in one call.
//
// The functions are torch's stable C interface, which src/aida/backends/tensors.py finds in the loaded torch, so that
// this library still needs no header of torch and serves every version of it.
#pragma once
#include <cstdint>

struct TensorApi {
  int32_t (*data_ptr)(void*, void**);
  int32_t (*storage_size)(void*, int64_t*);
  int32_t (*storage_offset)(void*, int64_t*);
  int32_t (*dim)(void*, int64_t*);
  int32_t (*sizes)(void*, int64_t**);
  int32_t (*strides)(void*, int64_t**);
  int32_t (*dtype)(void*, int32_t*);
  int32_t (*layout)(void*, int32_t*);
  int32_t (*device_type)(void*, int32_t*);
  int32_t (*device_index)(void*, int32_t*);
  int32_t strided;  // the layout whose tensors have memory and strides
};

// Of each tensor: its address, and eight numbers, its sizes and its strides in `facts`, one tensor after the other.
// impls: pointers to TensorImpl, of which the address of each is a tensor to the interface. Returns how many facts
// there are; -1 where there is no room for them, and -2 where torch has no answer.
inline int64_t describe(const TensorApi& api, void** impls, int64_t count, int64_t* addresses, int64_t* facts,
                        int64_t room) {
  int64_t used = 0;
  for (int64_t i = 0; i < count; i++) {
    void* tensor = impls + i;
    int32_t dtype, layout, device_type, device_index;
    int64_t size = 0, offset = 0, dim, *sizes = nullptr, *strides = nullptr;
    void* address = nullptr;
    if (api.dtype(tensor, &dtype) || api.layout(tensor, &layout) || api.device_type(tensor, &device_type) ||
        api.device_index(tensor, &device_index) || api.dim(tensor, &dim))
      return -2;
    if (used + 8 + 2 * dim > room) return -1;
    const bool strided = layout == api.strided;
    if (strided && (api.data_ptr(tensor, &address) || api.storage_size(tensor, &size) ||
                    api.storage_offset(tensor, &offset) || api.sizes(tensor, &sizes) ||
                    api.strides(tensor, &strides)))
      return -2;
    addresses[i] = reinterpret_cast<int64_t>(address);
    for (int64_t x : {int64_t(dtype), int64_t(layout), int64_t(device_type), int64_t(device_index),
                      int64_t(address == nullptr), size, offset, dim})
      facts[used++] = x;
    for (int64_t d = 0; d < dim; d++) facts[used + d] = strided ? sizes[d] : 0;
    used += dim;
    for (int64_t d = 0; d < dim; d++) facts[used + d] = strided ? strides[d] : 0;
    used += dim;
  }
  return used;
}
