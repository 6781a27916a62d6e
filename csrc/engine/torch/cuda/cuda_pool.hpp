/* A few objects for all threads, each lent to one call at a time. */
#ifndef CNCLIP_CUDA_POOL_HPP
#define CNCLIP_CUDA_POOL_HPP

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace cnclip_cuda {

template <typename Object>
class Pool {
 public:
  /* make: called at the first use of each of `count` objects. */
  Pool(std::size_t count, std::function<std::unique_ptr<Object>()> make)
      : make_(std::move(make)), objects_(count), taken_(count) {}

  /* An object that nobody else has until this lease is gone. Waits for one. */
  class Lease {
   public:
    explicit Lease(Pool *pool) : pool_(pool), index_(pool->take()) {}
    ~Lease() { pool_->give_back(index_); }
    Lease(const Lease &) = delete;
    Lease &operator=(const Lease &) = delete;
    Object *operator->() const { return pool_->objects_[index_].get(); }
    Object &operator*() const { return *pool_->objects_[index_]; }

   private:
    Pool *pool_;
    std::size_t index_;
  };

  /* Both when no lease is left. */
  void clear() { /* with the GPU's context current */
    for (std::unique_ptr<Object> &object : objects_) object.reset();
  }
  void abandon() { /* without destroying the objects */
    for (std::unique_ptr<Object> &object : objects_) static_cast<void>(object.release());
  }

 private:
  std::size_t take() {
    std::size_t index = 0;
    {
      std::unique_lock lock(mutex_);
      given_back_.wait(lock, [&] {
        for (index = 0; index < taken_.size() && taken_[index]; index++) {
        }
        return index < taken_.size();
      });
      taken_[index] = 1;
    }
    try {
      if (objects_[index] == nullptr) objects_[index] = make_();
    } catch (...) {
      give_back(index);
      throw;
    }
    return index;
  }

  void give_back(std::size_t index) {
    {
      const std::lock_guard lock(mutex_);
      taken_[index] = 0;
    }
    given_back_.notify_one();
  }

  std::function<std::unique_ptr<Object>()> make_;
  std::mutex mutex_;
  std::condition_variable given_back_;
  std::vector<std::unique_ptr<Object>> objects_;
  std::vector<char> taken_;
};

}  // namespace cnclip_cuda

#endif
